"""The ports that a host's programs listen on: whether two of ours, or one of others, want the same."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tierstack.model.cluster import UNITS, Cluster, Host
from tierstack.model.errors import Mistake

EVERYWHERE = "0.0.0.0"
_LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Listener:
    """
    A port that one of our programs listens on.

    Args:
        port: the port.
        key: the setting that names it.
        addresses: where it listens; `EVERYWHERE` is every address of the host.
        unit: the systemd unit that listens; "" is the kernel.
    """

    port: int
    key: str
    addresses: tuple[str, ...]
    unit: str


def listeners(cluster: Cluster, host: Host) -> list[Listener]:
    """Return what listens on a host once it is deployed, SSH excepted."""
    settings, here = cluster.settings, (host.address,)
    found = []
    if "balancer" in host.tiers:
        unit, balancer = UNITS["balancer"], settings.balancer
        found.append(Listener(balancer.http_port, "balancer.http_port", (EVERYWHERE,), unit))
        if balancer.https:
            found.append(Listener(balancer.https_port, "balancer.https_port", (EVERYWHERE,), unit))
    if "web" in host.tiers:
        found.append(Listener(settings.web.port, "web.port", here, UNITS["web"]))
    if "db" in host.tiers:
        at = (_LOOPBACK, host.address)
        found.append(Listener(settings.db.port, "db.port", at, UNITS["db"]))
    if "cache" in host.tiers:
        found.append(Listener(settings.cache.port, "cache.port", here, UNITS["cache"]))
    # MEDIA_ROOT may move to any of them, so both ports are kept free wherever they may be wanted.
    if cluster.exporter and host in cluster.home_candidates:
        nfs, port = settings.media.share == "nfs", settings.media.share_port
        key, unit = ("media.share", "") if nfs else ("media.sshfs_port", "tierstack-share.service")
        found.append(Listener(port, key, here, unit))
    if cluster.copies and host in cluster.home_candidates:
        unit, port = "tierstack-copy.service", settings.media.copy_port
        found.append(Listener(port, "media.copy_port", here, unit))
    if "media" in host.tiers:
        found.append(Listener(settings.media.port, "media.port", here, UNITS["media"]))
    return found


def check_ports(cluster: Cluster) -> list[Mistake]:
    """Return where two settings give programs of one host the same port."""
    mistakes = []
    for host in cluster.hosts:
        taken = {host.ssh_port: "the SSH server"}
        for listener in listeners(cluster, host):
            owner = taken.setdefault(listener.port, listener.key)
            if owner != listener.key:
                what = f"{listener.port} is the port of {owner} on {host.name} too; write another"
                mistakes.append(Mistake(listener.key, what))
    return mistakes


def judge_ports(cluster: Cluster, host: Host, found: Mapping[str, Any]) -> list[Mistake]:
    """
    Return the ports of a host that a program which is not ours listens on.

    Args:
        cluster: the cluster.
        host: the host.
        found: what it said of itself.
    """
    wanted = {listener.port: listener for listener in listeners(cluster, host)}
    # A service of this host may move from one of our ports to another.
    ours = {listener.unit for listener in wanted.values()}
    mistakes = set()
    for holder in found["ports"]:
        if holder["unit"] in ours and (holder["unit"] or not holder["process"]):
            continue
        listener = wanted[holder["port"]]
        mistakes.add(Mistake(listener.key, _taken(host, listener, holder, found["ssh_ports"])))
    return sorted(mistakes)


def _taken(
    host: Host, listener: Listener, holder: Mapping[str, Any], ssh_ports: Iterable[int]
) -> str:
    unit, remedies = holder["unit"], []
    who = f"{holder['process'] or 'the kernel'}{f' ({unit})' if unit else ''}"
    if unit.endswith(".service") and listener.port not in ssh_ports:
        remedies.append(f"type there: systemctl disable --now {unit}")
    elif holder["pid"] > 1 and listener.port not in ssh_ports:
        remedies.append(f"type there: kill {holder['pid']}")
    if listener.key != "media.share":
        remedies.append("write another port")
    remedy = ", or ".join(remedies) or "stop what listens there"
    return f"{listener.port} is taken on {host.name} by {who}; {remedy}"
