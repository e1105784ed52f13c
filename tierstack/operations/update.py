"""Debian packages that are installed, brought up to date: one host after the other.

Reason: `apt.upgrade` has packages restart what they bring, on all hosts at the same moment; and
libraries that are replaced stay loaded in whatever runs.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from typing import Any

from pyinfra import host, logger
from pyinfra.api.command import PyinfraCommand
from pyinfra.api.operation import operation

from tierstack.model.plan import Effect
from tierstack.operations.foreseen import Foreseen
from tierstack.operations.gate import Refuse, executing, failed_hosts, wait_for
from tierstack.operations.remote import RemoteFact, program, run

_AGENT = "update_agent.py"

#: What is downloaded here needs no network when its host's turn has come.
_DOWNLOAD = (
    "DEBIAN_FRONTEND=noninteractive apt-get -y -q -o DPkg::Lock::Timeout=120"
    " --download-only --with-new-pkgs upgrade"
)


class Outdated(RemoteFact):
    """
    What is older than it could be, by the package lists that the host has.

        problem   why the lists cannot be fetched, or ""
        packages  [[name, installed version, newer version]]
        units     [unit that runs a program or library whose file has been replaced]
        reboot    bool: the host's packages ask for a reboot
    """


@operation()
def downloaded() -> Generator[PyinfraCommand, None, None]:
    """Fetch the package lists and every newer package; nothing is installed."""
    found = _look({}, refresh=True)
    if found["problem"]:
        yield Refuse(f"{host.name}: the package lists cannot be fetched: {found['problem']}")
    elif found["packages"]:
        yield Foreseen(_DOWNLOAD, effect=Effect())


@operation()
def updated(
    units: Mapping[str, str], answers: Callable[[], str] | None
) -> Generator[PyinfraCommand, None, None]:
    """
    Install newer packages and restart what runs an older one; call it with `_serial=True`.

    A host that fails, or does not answer afterwards, ends it: the others are left as they are.

    Args:
        units: this host's services, each with the shell command that has it run what is
            installed now, failing no request where that is possible.
        answers: called until it returns "" (fine); else what is missing.
    """
    if failed := failed_hosts():
        yield Refuse(f"{host.name} is not updated, because {', '.join(failed)} failed")
        return
    found = _look(units)
    if found["packages"] or found["units"]:
        effect = Effect(packages=tuple(name for name, _, _ in found["packages"]))
        yield run(_AGENT, {"verb": "update", "units": dict(units)}, effect)
        if executing():
            for name, old, new in found["packages"]:
                logger.info(f"{host.print_prefix}{name} {old} -> {new}")
            if missing := wait_for(answers):
                yield Refuse(f"{host.name}: {missing}; the hosts after it are left as they are")
                return
    if found["reboot"] and executing():
        logger.warning(f"{host.print_prefix}asks for a reboot; type on it: reboot")


def _look(units: Mapping[str, str], *, refresh: bool = False) -> dict[str, Any]:
    request = {"verb": "look", "units": dict(units), "refresh": refresh}
    found: dict[str, Any] = host.get_fact(Outdated, _stdin=program(_AGENT, request))
    return found
