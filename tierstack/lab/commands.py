"""Programs of this machine: run one, and say what takes its time."""

import fcntl
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path


class LabError(RuntimeError):
    """The lab cannot do what was asked; the text says why and what to do."""


def run(
    argv: Sequence[str],
    *,
    check: bool = True,
    text_in: str | None = None,
    env: Mapping[str, str] | None = None,
    timeout_s: float | None = None,
) -> subprocess.CompletedProcess[str]:
    """
    Run a program to its end, without a terminal.

    Args:
        argv: the program and its arguments.
        check: raise when its exit status is not 0.
        text_in: its standard input; empty when None.
        env: its whole environment; this process's when None.
        timeout_s: how long it may take, in seconds.

    Returns:
        Its exit status, standard output and standard error.

    Raises:
        LabError: it is not installed, or it failed and then the text ends with the last lines it wrote.
        subprocess.TimeoutExpired: it took longer than timeout_s.
    """
    try:
        result = subprocess.run(
            argv,
            input=text_in or "",
            capture_output=True,
            text=True,
            errors="replace",
            env=env,
            timeout=timeout_s,
            check=False,
        )
    except FileNotFoundError:
        raise LabError(f"`{argv[0]}` is not installed; `tierstack lab up` installs it") from None
    if check and result.returncode != 0:
        last_lines = (result.stderr.strip() or result.stdout.strip()).splitlines()[-5:]
        raise LabError(
            f"`{' '.join(argv)}` failed with exit status {result.returncode}:\n"
            + "\n".join(f"  {line}" for line in last_lines)
        )
    return result


def remove_tree(directory: Path) -> None:
    """Remove a directory that was a root directory, and nothing that is mounted in it."""
    run(["rm", "-rf", "--one-file-system", str(directory)])


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """
    Hold a lock until the block ends; wait for whoever has it. It ends with its process at the latest.

    Args:
        file: it is made, and stays; its directory must be there.
    """
    with file.open("w") as opened:
        fcntl.flock(opened, fcntl.LOCK_EX)
        yield


@contextmanager
def step(text: str) -> Iterator[None]:
    """
    Print one line of progress: what is being done, then how long it took.

    Args:
        text: what is being done, in the user's words.
    """
    # The text goes out before the work, so that who waits knows for what.
    sys.stdout.write(f"lab: {text} … ")
    sys.stdout.flush()
    begin = time.monotonic()
    try:
        yield
    except BaseException:
        sys.stdout.write("failed\n")
        raise
    sys.stdout.write(f"{time.monotonic() - begin:.1f} s\n")
    sys.stdout.flush()
