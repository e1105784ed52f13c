"""The secrets file of one inventory: reading, judging and writing it, and running its commands.

A value is a string, or a command whose output is the value:

    database_password = { command = ["pass", "show", "shop/database"] }
"""

from __future__ import annotations

import fcntl
import functools
import json
import os
import shutil
import subprocess
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tierstack.model import Mistake, TierstackError
from tierstack.model.git import git_names
from tierstack.model.shell import quoted

_HEADER = (
    "# Secrets of this cluster. Keep it out of version control; whoever reads it owns the cluster.\n"
    "# Replace any value, by a string or by the command that prints it:\n"
    '#     database_password = { command = ["pass", "show", "shop/database"] }\n'
    "# For a new one delete a line, and deploy with --data new_secrets=yes. Other comments are not kept.\n"
)
_EXAMPLE = '{ command = ["pass", "show", "shop/database"] }'

#: Time enough to type a passphrase, in seconds.
_COMMAND_TIMEOUT_S: float = 60


@dataclass(frozen=True)
class Command:
    """A program and its arguments, without a shell; it prints a secret."""

    words: tuple[str, ...]


def secrets_file_of(inventory: Path) -> Path:
    """Return where the secrets of an inventory file lie."""
    return inventory.with_suffix(".secrets.toml")


def file_mistakes(file: Path) -> list[Mistake]:
    """Return what is wrong with a secrets file as it lies there; nothing if there is none."""
    if not file.exists():
        return []
    mistakes = []
    if file.stat().st_mode & 0o077:
        mistakes.append(
            Mistake(file.name, f"can be read by others; type: chmod 600 {quoted(file)}")
        )
    return mistakes + _read(file)[1]


def git_mistakes(file: Path) -> list[Mistake]:
    """Return what is wrong if git tracks a secrets file."""
    try:
        # Without git nothing can be said, and nothing is added to a repository either.
        tracked = bool(file.exists() and shutil.which("git")) and bool(
            git_names(file.parent, "ls-files", "-z", "--cached", "--", file.name)
        )
    except TierstackError as error:
        return [Mistake(file.name, str(error))]
    what = (
        "git tracks it, and whoever has the repository has the secrets; type:"
        f" git -C {quoted(file.parent)} rm --cached {file.name}, and if it was pushed, delete its lines, so"
        " that new ones are made"
    )
    return [Mistake(file.name, what)] if tracked else []


def read_file(file: Path) -> dict[str, str | Command]:
    """Return the secrets that stand in a file by dotted name; what is wrong there is left out."""
    return _read(file)[0] if file.exists() else {}


def command_output(name: str, command: Command, file: Path) -> tuple[str, Mistake | None]:
    """
    Run a command, once in this process.

    Args:
        name: the secret's dotted name.
        command: what prints it.
        file: the secrets file; the command runs in its directory.

    Returns:
        The value and None, or "" and what is wrong: never with what the command has printed on
        standard output, which may be a secret.
    """
    try:
        return _run(command, file.parent), None
    except _CommandError as error:
        return "", Mistake(f"{file.name}: {name}", str(error))


def write_file(file: Path, values: Mapping[str, str | Command]) -> None:
    """Replace a secrets file, readable by its owner only."""
    sections: dict[str, list[str]] = {}
    for name in sorted(values):
        section, _, key = name.rpartition(".")
        sections.setdefault(section, []).append(f"{key} = {_toml(values[name])}")
    text = _HEADER + "".join(
        f"\n[{section}]\n" + "\n".join(lines) + "\n" for section, lines in sections.items()
    )
    descriptor, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    with os.fdopen(descriptor, "w", encoding="utf-8") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    Path(temporary).replace(file)  # mkstemp makes it 0600


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Hold the file's lock: two runs at once must not each make a password of their own."""
    # Whoever can open it can hold it.
    path = file.with_name(f".{file.name}.lock")
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "w") as lock:
        path.chmod(0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _read(file: Path) -> tuple[dict[str, str | Command], list[Mistake]]:
    try:
        tables = tomllib.loads(file.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        # The error's text may quote a secret; its position does not.
        position = str(error).rpartition("(at ")[2].rstrip(")")
        return {}, [Mistake(file.name, f"is not valid TOML ({position}); correct that line")]
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "is not UTF-8 text"
        return {}, [Mistake(file.name, f"cannot be read: {why}; correct that")]
    found: dict[str, str | Command] = {}
    mistakes: list[Mistake] = []
    for name, value in _flat(tables, ""):
        where = f"{file.name}: {name}"
        if isinstance(value, str) and not value.strip():
            mistakes.append(Mistake(where, "is empty; write the value, or delete the line"))
        elif isinstance(value, str):
            found[name] = value
        elif not isinstance(value, dict):
            # The value itself is not shown: it may be the secret.
            what = f"is neither a string nor a command; write it in quotes, or {_EXAMPLE}"
            mistakes.append(Mistake(where, what))
        else:
            words = value["command"]
            good = isinstance(words, list) and all(isinstance(word, str) for word in words)
            if set(value) == {"command"} and good and words and words[0]:
                found[name] = Command(tuple(words))
            else:
                what = f"is not a command as a list of words; write e.g. {_EXAMPLE}"
                mistakes.append(Mistake(where, what))
    return found, mistakes


def _flat(table: dict[str, object], prefix: str) -> list[tuple[str, object]]:
    found: list[tuple[str, object]] = []
    for key, value in table.items():
        # A site may be called "command"; what it holds is a table again.
        command = isinstance(value, dict) and not isinstance(value.get("command", {}), dict)
        if isinstance(value, dict) and not command:
            found += _flat(value, f"{prefix}{key}.")
        else:
            found.append((prefix + key, value))
    return found


def _toml(value: str | Command) -> str:
    # A JSON string is a TOML string, and a list of them a TOML array.
    if isinstance(value, Command):
        return f"{{ command = {json.dumps(value.words, ensure_ascii=False)} }}"
    return json.dumps(value, ensure_ascii=False)


class _CommandError(Exception):
    """A command gave no value; told without what it has printed on standard output."""


@functools.cache
def _run(command: Command, directory: Path) -> str:
    program = command.words[0]
    try:
        done = subprocess.run(
            command.words,
            cwd=directory,
            # A passphrase is asked for on the terminal, not here.
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_COMMAND_TIMEOUT_S,
            check=False,
        )
    except FileNotFoundError:
        what = f'there is no program "{program}"; install it, or write the value'
        raise _CommandError(what) from None
    except OSError as error:
        what = f'"{program}" cannot be run: {error.strerror}; correct that, or write the value'
        raise _CommandError(what) from None
    except subprocess.TimeoutExpired:
        what = (
            f'"{program}" has not ended after {_COMMAND_TIMEOUT_S:g} s and was stopped;'
            f" try it by hand in {directory}"
        )
        raise _CommandError(what) from None
    if done.returncode != 0:
        said = " ".join(done.stderr.decode(errors="replace").split())
        what = (
            f'"{program}" failed with status {done.returncode}{f" ({said})" if said else ""};'
            f" try it by hand in {directory}"
        )
        raise _CommandError(what)
    try:
        value = done.stdout.decode().removesuffix("\n")
    except UnicodeDecodeError:
        raise _CommandError(f'"{program}" prints what is not UTF-8 text; encode it') from None
    if not value.strip():
        raise _CommandError(f'"{program}" prints nothing; try it by hand in {directory}')
    return value
