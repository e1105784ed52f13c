"""memcached on the cache hosts. Source: memcached(1); chapter, "Use memcached"."""

from __future__ import annotations

from collections.abc import Callable

import pyinfra
from pyinfra.api.facts import FactBase

from tierstack.model import Cluster, Host
from tierstack.model.sizing import cache_memory_mb
from tierstack.operations.config import File, Unit, config, template


def deploy(cluster: Cluster, host: Host) -> None:
    """Run memcached on the host's cluster address, sized to its memory."""
    settings = cluster.settings.cache
    config(
        name="memcached answers on the cluster address",
        stamp="cache",
        entries=[
            File(
                "/etc/tierstack/memcached.conf",
                template(
                    "cache/etc/tierstack/memcached.conf.j2",
                    address=host.address,
                    port=settings.port,
                    memory_mb=cache_memory_mb(cluster, host),
                    connections=settings.max_connections,
                ),
                needs="restart",
            ),
            File(
                "/etc/systemd/system/memcached.service.d/tierstack.conf",
                template("cache/etc/systemd/system/memcached.service.d/tierstack.conf.j2"),
                needs="restart",
            ),
        ],
        units=[Unit("memcached.service")],
    )


class CacheAnswers(FactBase[str]):
    """What is missing until memcached answers, or an empty string."""

    def command(self, address: str, port: int) -> str:
        return (
            "python3 -c 'import socket, sys;"
            " s = socket.create_connection((sys.argv[1], int(sys.argv[2])), 3);"
            ' s.sendall(b"version\\r\\n"); print(s.recv(99).decode().strip())\''
            f" {address} {port} 2>&1 | tail -n 1"
        )


def answers(cluster: Cluster, host: Host) -> Callable[[], str] | None:
    """Return a check for the gate: None where there is nothing to ask."""
    if "cache" not in host.tiers:
        return None

    def check() -> str:
        said = pyinfra.host.get_fact(
            CacheAnswers, address=host.address, port=cluster.settings.cache.port
        )
        return "" if said and said.startswith("VERSION") else f"memcached does not answer: {said}"

    return check
