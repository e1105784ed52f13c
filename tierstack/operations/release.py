"""A release on a host: laid out and checked beside what serves, then put in its place.

Reason: pyinfra has neither a transfer of a directory that is complete or absent, nor a change that
takes one host after the other and stops at the first that fails.
"""

from __future__ import annotations

import base64
import json
import shlex
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import gevent
from gevent.lock import RLock
from pyinfra import host
from pyinfra.api.command import PyinfraCommand
from pyinfra.api.facts import FactBase
from pyinfra.api.operation import operation

from tierstack.agents.web_release import differing
from tierstack.hosts import in_this_run
from tierstack.model.packages import Packages, decide_packages
from tierstack.model.plan import Effect
from tierstack.operations.config import Entry, Unit, config
from tierstack.operations.foreseen import Foreseen
from tierstack.operations.gate import Refuse, executing, failed_hosts
from tierstack.operations.remote import HostError, tell

PROGRAM = "/usr/local/lib/tierstack/web-release"
_LINE = 7200

#: Hosts that a roll has left out: pyinfra counts them as failed, and they are not the reason.
_left_out: set[str] = set()


class Missing(FactBase[list[str]]):
    """Those of the given files that are not there, each the mark of a step that has ended; and the link."""

    def command(self, paths: list[str], link: str, target: str) -> str:
        names = " ".join(shlex.quote(path) for path in paths)
        link, target = shlex.quote(link), shlex.quote(target)
        return (
            f"for p in {names}; do test -e $p || echo $p; done;"
            f' test "$(readlink {link})" = {target} || echo {link}'
        )

    @staticmethod
    def default() -> list[str]:
        return []

    def process(self, output: list[str]) -> list[str]:
        return [line for line in output if line]


@dataclass(frozen=True)
class Layout:
    """
    A release of a site and what web hosts are told to lay it out.

    Args:
        site: the site's name.
        account: the account that its code runs as.
        current: symbolic link to the release that serves.
        path: the release's directory.
        requirements: pip's file, relative to the source.
        requirements_hash: hash of its text.
        config_path: directory of the generated settings that belong to it.
        module: the site's own settings module, for messages.
        hosts: the web hosts that serve the site: where there are several, state that a host keeps
            for itself is refused, and all get the same packages.
        local_caches: aliases of caches that each host may keep for itself.
        project: the directory of manage.py.
        commands: the site's own that are run there before static files are collected, as words.
        build_s: longest that each step of laying it out may take, in seconds.
        pool: what PostgreSQL has for the site's own pool, as of `pool_budget`.
        archive: returns the source as tar.gz.
    """

    site: str
    account: str
    current: str
    path: str
    requirements: str
    requirements_hash: str
    config_path: str
    module: str
    hosts: Sequence[str]
    local_caches: Sequence[str]
    project: str
    commands: Sequence[Sequence[str]]
    build_s: int
    pool: Mapping[str, int]
    archive: Callable[[], bytes]

    def build(self, packages: Packages) -> Foreseen:
        """Return the command that unpacks it and installs these packages, or what pip finds."""
        text = base64.b64encode(self.archive()).decode()
        lines = [text[start : start + _LINE] for start in range(0, len(text), _LINE)]
        asked = {"of": packages.of, "packages": dict(packages.versions), "build_s": self.build_s}
        header = json.dumps(asked)
        who = (host.name, self.site, self.account, self.path)
        command = shlex.join([PROGRAM, "build", *who, self.requirements])
        effect = Effect(notes=(f"builds {self.path}",))
        return Foreseen(command, effect=effect, _stdin=[header, *lines])

    def check(self) -> Foreseen:
        """Return the command that sees whether the site starts in it, and collects static files."""
        who = (host.name, self.site, self.account, self.path)
        more = [self.config_path, self.module, str(len(self.hosts)), *self.local_caches]
        command = shlex.join([PROGRAM, "check", *who, *more])
        asked = {
            "project": self.project,
            "commands": self.commands,
            "build_s": self.build_s,
            "pool": dict(self.pool),
        }
        given = json.dumps(asked)
        effect = Effect(notes=("checks that the site starts",))
        return Foreseen(command, effect=effect, _stdin=given)


#: Hosts and releases that serve nothing there yet, in this run.
_unserved: set[tuple[str, str]] = set()


@operation()
def release(layout: Layout) -> Generator[Foreseen, None, None]:
    """
    Lay out a release and see that the site starts in it; what serves is not touched.

    Where another web host has it, or packages of the same requirements, pip installs what that one
    has.
    """
    built, checked = f"{layout.path}/.built", f"{layout.config_path}/.checked"
    marks = [built, f"{layout.path}/.complete", checked]
    missing = host.get_fact(Missing, paths=marks, link=layout.current, target=layout.path)
    if layout.current in missing:
        _unserved.add((host.name, layout.path))
    if built in missing:
        yield layout.build(_packages(layout, "before") if executing() else Packages())
    if set(marks) & set(missing):
        yield layout.check()


@operation()
def same_packages(layout: Layout) -> Generator[Foreseen, None, None]:
    """
    Have a release the same packages on every web host, once it is laid out on all of them.

    An index may have given one host other versions than the next, moments later.
    """
    if not executing() or (host.name, layout.path) not in _unserved or len(layout.hosts) == 1:
        return
    wanted = _packages(layout, "after")
    mine = _answers[layout.path, "after"].get(host.name, {}).get("release", {})
    if differing(mine, dict(wanted.versions)):
        yield layout.build(wanted)
        yield layout.check()


_answers: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
_asking = RLock()


def _packages(layout: Layout, when: str) -> Packages:
    """Return what all web hosts of this run get; they are asked once before, and once after building."""
    with _asking:
        key = layout.path, when
        if key not in _answers:
            names = [name for name in layout.hosts if in_this_run(name)]
            _answers[key] = _ask([n for n in names if n not in failed_hosts()], layout)
        return decide_packages(_answers[key].items(), layout.requirements_hash)


def _ask(names: Sequence[str], layout: Layout) -> dict[str, dict[str, Any]]:
    """Return what hosts have installed, by name in their order; who does not answer is left out."""
    command = shlex.join([PROGRAM, "packages", layout.account, layout.path])

    def ask(name: str) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads(tell(name, command, patience_s=30))
        except (HostError, ValueError):
            return {}  # Whatever is the matter with it ends its own part of the run.
        return found

    asked = {name: gevent.spawn(ask, name) for name in names}
    return {name: said for name, greenlet in asked.items() if (said := greenlet.get())}


@operation()
def rolled_config(
    state: str,
    entries: Sequence[Entry],
    units: Sequence[Unit],
    drains: bool = False,
    **arguments: Any,
) -> Generator[PyinfraCommand, None, None]:
    """
    Do what `config` does, unless a host has failed; call it with `_serial=True` where visitors are.

    Args:
        state: what a host that is left out goes on doing, for the message.
        entries: as of `config`.
        units: as of `config`.
        drains: whether a host takes no visitors while its units act.
        arguments: the others of `config`.
    """
    for command in config._inner(entries=entries, units=units, **arguments):
        failed = [name for name in failed_hosts() if name not in _left_out]
        if failed:
            _left_out.add(host.name)
            sentence = f"{host.name} {state}: not changed, because {', '.join(failed)} failed"
            yield Refuse(sentence, left_out=True)
            return
        acts = isinstance(command, Foreseen) and any(
            action in ("reload", "restart") for action, _ in command.effect.units
        )
        if acts and drains:
            command.effect = replace(command.effect, drains=(host.name,))
        yield command
