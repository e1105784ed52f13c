"""What a firewall would shut: programs that are not ours, and the tunnel by which the operator comes in."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tierstack.model.cluster import Cluster, Host
from tierstack.model.errors import Mistake
from tierstack.model.ports import listeners

#: What nobody outside misses: clients of DHCP, whose answers have rules of their own, and what finds
#: neighbours or NFS before version 4.
_HARMLESS_PORTS = frozenset({
    ("udp", 68), ("udp", 546), ("udp", 5353), ("udp", 5355), ("tcp", 5355), ("udp", 111), ("tcp", 111),
})  # fmt: skip
#: Of what docker-proxy listens for, the kernel forwards what comes from outside.
_HARMLESS_PROCESSES = frozenset({"avahi-daemon", "docker-proxy", "rpc.mountd", "rpc.statd"})

#: How other firewalls are turned off for good.
_TURNED_OFF = {"ufw": "ufw disable", "firewalld": "systemctl disable --now firewalld"}

#: Tunnels whose packets are neither TCP nor UDP, so that no rule lets them in.
_WITHOUT_PORTS = frozenset(
    {"gre", "gretap", "ip6gre", "ip6gretap", "ipip", "sit", "ip6tnl", "vti", "vti6", "xfrm"}
)


def judge_shut(
    cluster: Cluster, host: Host, said: Mapping[str, Any], shut: bool
) -> Iterator[Mistake]:
    """
    Yield what a host's firewall would shut that somebody may need.

    A new SSH connection that comes in shows that the next one will, too. Through a tunnel that is up
    it shows nothing, as what is established goes on whatever the rules say: that is always refused.

    Args:
        cluster: the cluster.
        host: the host.
        said: what it said of itself.
        shut: whether the user has said that nobody needs it.
    """
    opened = {(opening.protocol, opening.port) for opening in cluster.openings(host)}
    opened |= {("tcp", port) for port in said["ssh_ports"]}
    ours = {listener.unit for listener in listeners(cluster, host)} - {""}
    closed = [
        entry
        for entry in said["listening"]
        if (entry["protocol"], entry["port"]) not in opened | _HARMLESS_PORTS
        and entry["process"] not in _HARMLESS_PROCESSES
        and entry["unit"] not in ours
        and not entry["unit"].startswith("tierstack-")
    ]
    way, carries = said["way_in"], [entry for entry in closed if entry["tunnel"]]
    remedy = "reach it by an address outside of the tunnel (ssh_hostname in its line)"
    if way["kind"] in _WITHOUT_PORTS:
        what = (
            f"this run comes in by the tunnel {way['interface']} ({way['kind']}), whose packets no rule"
            f" of the firewall lets in; {remedy}"
        )
        yield Mistake(host.name, what)
    elif way["kind"] and carries:
        what = (
            f"this run comes in by the tunnel {way['interface']} ({way['kind']}), and the firewall would"
            f" shut {_shown(carries)}, where it arrives; write {_line(cluster, carries)}, or {remedy}"
        )
        yield Mistake(host.name, what)
    if what := shut_by_other(cluster, host, said["other_firewall"]):
        yield Mistake(host.name, what)
    # A firewall that is there has shut it before.
    if closed and not shut and not said["firewall"]["input"]:
        what = (
            f"its firewall would shut {_shown(closed)}; write {_line(cluster, closed)}, each with"
            ' "from ADDRESS" if not for everybody, or if nobody needs it, add --data shut=yes'
        )
        yield Mistake(host.name, what)


def shut_by_other(cluster: Cluster, host: Host, found: Mapping[str, Any]) -> str:
    """
    Return what another firewall keeps out that the cluster lets in, and what to do; "" for nothing.

    Args:
        cluster: the cluster.
        host: the host.
        found: as `other_firewall.py` says it.
    """
    name, opened = found["name"], found["opened"]
    if not name or opened is None:
        return ""
    wanted = dict.fromkeys((opening.protocol, opening.port) for opening in cluster.openings(host))
    missing = [f"{way[0]} {way[1]}" for way in wanted if list(way) not in opened]
    if not missing:
        return ""
    return (
        f"{name} is at work there too, and shuts {', '.join(missing)}, which the cluster lets in; type"
        f" there: {_TURNED_OFF[name]}, as the cluster's firewall takes its place, or let them in by"
        f" {name}"
    )


def _shown(entries: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(
        f"{entry['protocol']} {entry['port']}"
        f" ({', '.join(filter(None, (entry['process'] or 'the kernel', entry['unit'])))})"
        for entry in entries
    )


def _line(cluster: Cluster, entries: Sequence[Mapping[str, Any]]) -> str:
    ways = [f"{entry['protocol']} {entry['port']}" for entry in entries]
    return f"base.incoming = {json.dumps([*cluster.settings.base.incoming, *ways])}"
