"""Programs that have nothing left to do on a host.

Reason: pyinfra's `systemd.service` stops whatever has that name; these are stopped once, and only
where we had them run, so that what the host's owner does with the package later is left alone.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping

from pyinfra.api.operation import operation

from tierstack.model.plan import Effect
from tierstack.operations.foreseen import Foreseen


@operation()
def retired(units: Mapping[str, str], first: str = "true") -> Generator[Foreseen, None, None]:
    """
    Stop services and start them no more; files and data stay.

    Args:
        units: by the stamp of `config` that says they are ours, the service.
        first: shell command that goes before.
    """
    for stamp, unit in units.items():
        # The stamp goes last: a run that is cut off here stops it again.
        yield Foreseen(
            f"{first} && systemctl disable --quiet --now {unit} && rm -f /var/lib/tierstack/{stamp}.stamp",
            effect=Effect(notes=(f"stops {unit}, as this host has no part in its tier any more",)),
        )
