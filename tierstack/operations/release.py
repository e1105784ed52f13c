"""A release on a host: laid out and checked beside what serves, then put in its place.

Reason: pyinfra has neither a transfer of a directory that is complete or absent, nor a change that
takes one host after the other and stops at the first that fails.
"""

from __future__ import annotations

import base64
import shlex
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from typing import Any

from pyinfra import host
from pyinfra.api.command import PyinfraCommand
from pyinfra.api.facts import FactBase
from pyinfra.api.operation import operation

from tierstack.model.plan import Effect
from tierstack.operations.config import Entry, Unit, config
from tierstack.operations.foreseen import Foreseen
from tierstack.operations.gate import Refuse, failed_hosts

_PROGRAM = "/usr/local/lib/tierstack/web-release"
_LINE = 7200

#: Hosts that a roll has left out: pyinfra counts them as failed, and they are not the reason.
_left_out: set[str] = set()


class MissingMarkers(FactBase[list[str]]):
    """Those of the given files that are not there: each marks a step that has ended."""

    def command(self, paths: list[str]) -> str:
        names = " ".join(shlex.quote(path) for path in paths)
        return f"for p in {names}; do test -e $p || echo $p; done"

    @staticmethod
    def default() -> list[str]:
        return []

    def process(self, output: list[str]) -> list[str]:
        return [line for line in output if line]


@operation()
def release(
    site: str,
    account: str,
    path: str,
    requirements: str,
    config_path: str,
    module: str,
    hosts: int,
    local_caches: Sequence[str],
    archive: Callable[[], bytes],
) -> Generator[Foreseen, None, None]:
    """
    Lay out a release and see that the site starts in it; what serves is not touched.

    Args:
        site: the site's name.
        account: the account that its code and pip run as.
        path: the release's directory.
        requirements: pip's file, relative to the source.
        config_path: directory of the generated settings that belong to it.
        module: the site's own settings module, for messages.
        hosts: how many web hosts serve the site: with more than one, state that a host keeps for
            itself is refused.
        local_caches: aliases of caches that each host may keep for itself.
        archive: returns the source as tar.gz.
    """
    built, checked = f"{path}/.built", f"{config_path}/.checked"
    missing = host.get_fact(MissingMarkers, paths=[built, checked])
    who = (host.name, site, account, path)
    if built in missing:
        text = base64.b64encode(archive()).decode()
        lines = [text[start : start + _LINE] for start in range(0, len(text), _LINE)]
        build = shlex.join([_PROGRAM, "build", *who, requirements])
        yield Foreseen(build, effect=Effect(notes=(f"builds {path}",)), _stdin=lines)
    if missing:
        check = [_PROGRAM, "check", *who, config_path, module, str(hosts), *local_caches]
        yield Foreseen(shlex.join(check), effect=Effect(notes=("checks that the site starts",)))


@operation()
def rolled_config(
    state: str, entries: Sequence[Entry], units: Sequence[Unit], **arguments: Any
) -> Generator[PyinfraCommand, None, None]:
    """
    Do what `config` does, unless a host has failed; call it with `_serial=True` where visitors are.

    Args:
        state: what a host that is left out goes on doing, for the message.
        entries: as of `config`.
        units: as of `config`.
        arguments: the others of `config`.
    """
    for command in config._inner(entries=entries, units=units, **arguments):
        failed = [name for name in failed_hosts() if name not in _left_out]
        if failed:
            _left_out.add(host.name)
            sentence = f"{host.name} {state}: not changed, because {', '.join(failed)} failed"
            yield Refuse(sentence, left_out=True)
            return
        if isinstance(command, Foreseen) and any(
            action in ("reload", "restart") for action, _ in command.effect.units
        ):
            command.effect = replace(command.effect, drains=(host.name,))
        yield command
