"""Debian packages, installed without starting what they bring.

Reason: `apt.packages` lets packages start their services on installation. On a host of several
tiers lighttpd then takes port 80 and Apache fails to start; everywhere a service would answer with
its distribution's configuration, before ours and the firewall are in place. It also gives up at once
where another program has dpkg's lock, as on a host that is a few minutes old.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence

from pyinfra import host, logger
from pyinfra.api.operation import operation

from tierstack.model.plan import Effect
from tierstack.operations.foreseen import Foreseen
from tierstack.operations.remote import RemoteFact, program, run

_AGENT = "packages_agent.py"

#: How long whoever changes packages on a host is waited for, in seconds: a new host's
#: unattended-upgrades may have much to do.
PATIENCE_S = 600


class PackagesHeld(RemoteFact):
    """Which other program changes packages on a host."""


@operation()
def packages(missing: Sequence[str], before: str = "") -> Generator[Foreseen, None, None]:
    """
    Install Debian packages; their services are neither started nor restarted.

    Args:
        missing: names of those that are not installed, as the host said at the start of the run.
        before: shell command to run first when something is missing, e.g. to write a
            configuration that a package reads while it is installed.
    """
    if not missing:
        return
    if who := host.get_fact(PackagesHeld, _stdin=program(_AGENT, {"verb": "look"}))["holder"]:
        logger.warning(
            f"{host.print_prefix}another program changes packages there ({who}); its end is waited for,"
            f" up to {PATIENCE_S // 60} min"
        )
    request = {
        "verb": "install",
        "packages": list(missing),
        "before": before,
        "patience_s": PATIENCE_S,
    }
    yield run(_AGENT, request, Effect(packages=tuple(missing)))
