"""memcached on the cache hosts. Source: memcached(1); chapter, "Use memcached"."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyinfra
from pyinfra.api.facts import FactBase

from roles.web.settings import CACHE_OPTIONS
from tierstack import hosts
from tierstack.model import Cluster, Host
from tierstack.model.sizing import cache_memory_mb
from tierstack.operations.config import File, Unit, template
from tierstack.operations.release import rolled_config

#: How long after a restart web hosts leave a cache host alone, in seconds; they are empty together
#: otherwise.
_LEFT_ALONE_S = int(CACHE_OPTIONS["dead_timeout"]) + 1


def deploy(cluster: Cluster, host: Host) -> None:
    """
    Run memcached on the host's cluster address, sized to its memory.

    A restart empties it: one host after the other, each of them found again by the web hosts before
    the next one goes. Those that have cached nothing yet start all at once.
    """
    settings = cluster.settings.cache
    what: dict[str, Any] = {
        "stamp": "cache",
        "entries": [
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
        "units": [Unit("memcached.service", restart=_restart(cluster, host))],
    }
    if "cache" not in hosts.facts(host.name)["stamps"]:
        rolled_config(
            name="memcached answers on the cluster address of new cache hosts",
            state="caches nothing yet",
            **what,
        )
    else:
        rolled_config(
            name="memcached answers on the cluster address",
            state="goes on as it was",
            **what,
            _serial=True,
        )


def _restart(cluster: Cluster, host: Host) -> str:
    """Return the shell command that restarts memcached and, but on the last host, waits for its clients."""
    command = "systemctl restart memcached.service"
    last = cluster.tier("cache")[-1]
    return command if host == last else f"{command} && sleep {_LEFT_ALONE_S}"


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
