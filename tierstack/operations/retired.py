"""Programs that have nothing left to do on a host, and connections of hosts that have left.

Reason: pyinfra's `systemd.service` stops whatever has that name; these are stopped once, and only
where we had them run, so that what the host's owner does with the package later is left alone.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence

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


@operation()
def sessions_ended(peers: Sequence[str], port: int) -> Generator[Foreseen, None, None]:
    """
    End the connections that others have to a port of this host, with the processes that serve them.

    Args:
        peers: IPv4 addresses of the others.
        port: the port.
    """
    sources = " or ".join(f"dst = {peer}" for peer in peers)
    yield Foreseen(
        f"ss -Htnp state established 'sport = :{port} and ( {sources} )'"
        " | grep -o 'pid=[0-9]*' | cut -d= -f2 | sort -u | xargs -r kill",
        effect=Effect(notes=(f"ends what {', '.join(peers)} has open on port {port}",)),
    )
