"""A role's config files and the units that read them, as one operation.

Reason: pyinfra's `files.put` and `files.template` are neither atomic nor validated, put secrets
through a world-readable file under sudo, and a reload that hangs on "did a file change" is lost for
ever when the run is cut off between the two.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from pyinfra import host
from pyinfra.api.command import StringCommand
from pyinfra.api.operation import operation

from tierstack.model.plan import Action, Effect, FileChange, Rules
from tierstack.operations.remote import RemoteFact, program, run

_ROOT = Path(__file__).resolve().parent.parent.parent
_TEMPLATES = _ROOT / "templates"
_AGENT = "agent.py"

#: What a unit is told whose files have been put in place unseen.
_ANEW: tuple[Action, ...] = ("enable", "restart")

Activation = Literal["reload", "restart"]


@dataclass(frozen=True)
class File:
    """
    A file that must be there with these bytes.

    Args:
        path: absolute path on the host.
        content: its bytes.
        mode: octal, e.g. "644".
        owner: account that owns it.
        group: group that owns it.
        needs: what a change of it asks of the operation's units.
        rules: its lines that let somebody through, if it has such. They are shown whatever the mode
            is: of another file that not everybody may read, `tierstack plan` shows nothing.
    """

    path: str
    content: bytes
    mode: str = "644"
    owner: str = "root"
    group: str = "root"
    needs: Activation = "reload"
    rules: Rules | None = None


@dataclass(frozen=True)
class Directory:
    """A directory that must be there; what lies in it is not looked at."""

    path: str
    mode: str = "755"
    owner: str = "root"
    group: str = "root"


@dataclass(frozen=True)
class Link:
    """A symbolic link that must point to `target`."""

    path: str
    target: str
    needs: Activation = "reload"


@dataclass(frozen=True)
class Absent:
    """
    A file, link or empty directory that must not be there.

    Args:
        path: absolute path on the host.
        needs: what it asks of the operation's units when it goes.
        once: whether later runs do not name it any more: what units have loaded is the same then.
    """

    path: str
    needs: Activation = "reload"
    once: bool = False


Entry = File | Directory | Link | Absent


@dataclass(frozen=True)
class Unit:
    """
    A systemd unit that reads the files.

    Args:
        name: e.g. "haproxy.service".
        reload: shell command that makes it read a changed file; by default `systemctl reload`.
        restart: shell command for what only a restart can change; by default `systemctl restart`.
        start: shell command that starts it when it does not run; by default `systemctl restart`: of a
            unit that fails and is started again and again, `start` would join the attempt under way,
            which has read the files of before.
        enabled: whether it starts at boot.
        healthy: shell command that fails when the unit counts as running and yet is not.
    """

    name: str
    reload: str = ""
    restart: str = ""
    start: str = ""
    enabled: bool = True
    healthy: str = ""

    def command(self, action: Action) -> str:
        own = {"reload": self.reload, "restart": self.restart, "start": self.start}.get(action)
        verb = "restart" if action == "start" else action
        return own or f"systemctl {verb} {self.name}"


def template(name: str, /, **values: Any) -> bytes:
    """
    Render `templates/<name>` on the controller.

    Args:
        name: path under `templates/`, ending in `.j2`.
        values: what the template prints; a missing one is an error.

    Returns:
        The file's bytes. The template sees `managed`, the first line of every file of ours.
    """
    tier = name.split("/", 1)[0]
    managed = (
        f"Managed by Tierstack (templates/{name}). Local edits are lost;"
        f" change group_data/{tier if tier != 'base' else 'all'}.py."
    )
    return _environment().get_template(name).render(managed=managed, **values).encode()


def agent(name: str) -> bytes:
    """Return the module `tierstack/agents/<name>.py` as a program: it needs nothing beside itself."""
    return b"#!/usr/bin/python3\n" + agent_module(name)


def agent_module(name: str) -> bytes:
    """Return the module `tierstack/agents/<name>.py` as a host has it, for other programs to import."""
    source = _ROOT / "tierstack" / "agents" / f"{name}.py"
    first = f"# Managed by Tierstack (tierstack/agents/{name}.py). Local edits are lost.\n"
    return first.encode() + source.read_bytes()


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(_TEMPLATES),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 -- these are configuration files, not HTML
    )


class ConfigState(RemoteFact):
    """What is on a host: paths, units and the stamp of what the units have loaded. One execution."""


@operation()
def config(
    entries: Sequence[Entry],
    units: Sequence[Unit] = (),
    stamp: str = "",
    check: str = "",
    check_staged: str = "",
    then: str = "",
    keep_new: bool = False,
) -> Generator[StringCommand, None, None]:
    """
    Put files in place together, checked and atomic, and have their units read them.

    Args:
        entries: what must be there. Order is kept: a directory before what lies in it.
        units: the units that read them; they end up enabled, running and with these files loaded.
        stamp: a name for this set of files, unique on a host, e.g. "balancer".
        check: shell command that judges the files in place; the old files come back if it fails.
        check_staged: shell command that judges them beforehand, under the root `$STAGE`.
        then: shell command to run after any of the files changed, before the units act.
        keep_new: whether the files stay though a unit fails with them: what was before is over.

    A changed file leads to the unit's reload or restart, as the file says. What the units have
    loaded is remembered in a stamp on the host, so a run that was cut off between files and
    reload is made good by the next.
    """
    want = _loaded(entries)
    look = {
        "verb": "look",
        "paths": [entry.path for entry in entries],
        "units": {unit.name: unit.healthy for unit in units},
        "stamp": stamp,
    }
    found = host.get_fact(ConfigState, _stdin=program(_AGENT, look))
    if not found:
        yield StringCommand("echo 'python3 is missing on this host' >&2; exit 1")
        return
    changed = [entry for entry in entries if not _matches(entry, found["paths"][entry.path])]
    was = found["stamp"]
    restart = was.get("restart") != want["restart"] or any(
        getattr(entry, "needs", "reload") == "restart" for entry in changed
    )
    reload = was.get("reload") != want["reload"] or any(
        getattr(entry, "needs", "reload") == "reload" for entry in changed
    )
    actions = [
        (action, unit)
        for unit in units
        for action in _actions(unit, found["units"][unit.name], reload, restart)
    ]
    if not changed and not actions and was == want:
        return
    during = {
        "restart": "unfinished" if restart else want["restart"],
        "reload": "unfinished" if reload else want["reload"],
    }
    yield run(
        _AGENT,
        {
            "verb": "apply",
            "entries": [_sent(entry) for entry in (entries if check_staged else changed)],
            "stamp": {"name": stamp, "was": was, "during": during, "want": want},
            "check": check,
            "check_staged": check_staged if changed else "",
            "then": then if changed or reload or restart else "",
            "keep_new": keep_new,
            "actions": [_sent_action(action, unit) for action, unit in actions],
        },
        Effect(
            files=tuple(_foreseen(entry, found["paths"][entry.path]) for entry in changed),
            units=tuple((action, unit.name) for action, unit in actions),
            notes=() if changed or actions else ("notes on the host that all this is in place",),
        ),
    )


def applied(entries: Sequence[Entry], units: Sequence[Unit], stamp: str) -> dict[str, Any]:
    """
    Return the request by which `agent.py` does what `config` would do, without a look beforehand.

    For what must be done from inside of another operation: a later `config` of the same finds
    nothing to change. The units are restarted, and the files stay though one fails with them.

    Args:
        entries: what must be there.
        units: the units that read them.
        stamp: name of this set of files.
    """
    return {
        "verb": "apply",
        "entries": [_sent(entry) for entry in entries],
        "stamp": {
            "name": stamp,
            "was": {},
            "during": {"restart": "unfinished", "reload": "unfinished"},
            "want": _loaded(entries),
        },
        "check": "",
        "check_staged": "",
        "then": "",
        "keep_new": True,
        "actions": [
            _sent_action(action, unit) for unit in units for action in _ANEW if unit.enabled
        ],
    }


def _actions(unit: Unit, state: dict[str, bool], reload: bool, restart: bool) -> list[Action]:
    actions: list[Action] = []
    if unit.enabled and not state["enabled"]:
        actions.append("enable")
    if not state["running"]:
        actions.append("start")
    elif restart:
        actions.append("restart")
    elif reload:
        actions.append("reload")
    return actions


def _sent_action(action: Action, unit: Unit) -> dict[str, str]:
    command = unit.command(action)
    if action == "enable":
        # Of a unit that is enabled already it would have systemd read all its files anew.
        command = f"systemctl is-enabled --quiet {unit.name} || {command}"
    return {
        "unit": "" if action == "enable" else unit.name,
        "command": command,
        "undo": command if action in ("restart", "reload") else "",
    }


def _foreseen(entry: Entry, found: dict[str, Any]) -> FileChange:
    """Return what becomes of a path that does not match."""
    after = {File: "file", Directory: "directory", Link: "link", Absent: "absent"}[type(entry)]
    rules = entry.rules if isinstance(entry, File) else None
    had = found.get("mode")
    rights = []
    if had is not None and isinstance(entry, (File, Directory)):
        mode = entry.mode.lstrip("0")
        was, will = f"{found['owner']}:{found['group']}", f"{entry.owner}:{entry.group}"
        rights += [f"mode {had} to {mode}"] if had != mode else []
        rights += [f"{was} to {will}"] if was != will else []
    modes = [had, entry.mode if isinstance(entry, File) else None]
    return FileChange(
        path=entry.path,
        before=found["kind"],
        after=after,
        content=entry.content if isinstance(entry, File) else b"",
        target=entry.target if isinstance(entry, Link) else "",
        rights=", ".join(rights),
        rules=rules,
        # What one of both modes keeps from others.
        secret=rules is None and any(mode is not None and not int(mode, 8) & 4 for mode in modes),
    )


def _matches(entry: Entry, found: dict[str, Any]) -> bool:
    if isinstance(entry, Absent):
        return bool(found["kind"] == "absent")
    if isinstance(entry, Link):
        return bool(found["kind"] == "link" and found["target"] == entry.target)
    kind = "file" if isinstance(entry, File) else "directory"
    if (found["kind"], found.get("mode"), found.get("owner"), found.get("group")) != (
        kind,
        entry.mode.lstrip("0"),
        entry.owner,
        entry.group,
    ):
        return False
    return not isinstance(entry, File) or found["sha256"] == _sha256(entry.content)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _loaded(entries: Sequence[Entry]) -> dict[str, str]:
    """Return hashes over what units load by a restart, and by a reload."""
    return {
        needs: _digest([entry for entry in entries if getattr(entry, "needs", "reload") == needs])
        for needs in ("restart", "reload")
    }


def _digest(entries: Sequence[Entry]) -> str:
    """Return one hash over what units load: contents and paths, not owners and modes."""
    parts = []
    for entry in entries:
        if isinstance(entry, File):
            parts.append(f"{entry.path} {_sha256(entry.content)}")
        elif isinstance(entry, Link):
            parts.append(f"{entry.path} -> {entry.target}")
        elif isinstance(entry, Absent) and not entry.once:
            parts.append(f"{entry.path} absent")
    return _sha256("\n".join(sorted(parts)).encode())[:16]


def _sent(entry: Entry) -> dict[str, str]:
    if isinstance(entry, Absent):
        return {"kind": "absent", "path": entry.path}
    if isinstance(entry, Link):
        return {"kind": "link", "path": entry.path, "target": entry.target}
    sent = {"path": entry.path, "mode": entry.mode, "owner": entry.owner, "group": entry.group}
    if isinstance(entry, Directory):
        return {"kind": "directory", **sent}
    return {"kind": "file", "content": base64.b64encode(entry.content).decode(), **sent}
