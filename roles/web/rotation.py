"""A web node leaves the rotation and comes back by an operator's hand."""

from __future__ import annotations

import datetime
import getpass
import os
import socket
from collections.abc import Callable

import pyinfra
from pyinfra.api.exceptions import PyinfraError

from tierstack.hosts import ask_all, in_this_run
from tierstack.model import Cluster, Host
from tierstack.operations.haproxy import HaproxyStat, Server


def chosen(cluster: Cluster) -> Host:
    """
    Return the web node that `--data node=…` names.

    Raises:
        PyinfraError: it names none, or a balancer has no part in this run; nothing was changed.
    """
    nodes = [host.name for host in cluster.tier("web")]
    node = pyinfra.host.data.get("node")
    if node not in nodes:
        said = f'"{node}" is not a web node' if node else "no node is named"
        raise PyinfraError(f"{said}; add --data node=NODE, one of {', '.join(nodes)}")
    for host in (cluster.host(node), *cluster.tier("balancer")):
        if not in_this_run(host.name):
            raise PyinfraError(f"{host.name} has no part in this run; run it without --limit")
    return cluster.host(node)


def refuse_the_last(cluster: Cluster, node: Host) -> None:
    """
    Refuse to hold back the only node that a balancer sends visitors to.

    Raises:
        PyinfraError: naming what to do instead; nothing was changed.
    """
    if pyinfra.host.data.get("last") == "yes":
        return
    names = {host.name for host in cluster.tier("balancer")}
    balancers = [host for host in pyinfra.inventory.get_active_hosts() if host.name in names]
    for balancer, servers in ask_all(balancers, HaproxyStat).items():
        web = [server for server in servers if server.backend == "web"]
        if web and not any(server.up for server in web if server.name != node.name):
            raise PyinfraError(
                f"{balancer} sends visitors to no other node than {node.name}: without it they get"
                " an error page; bring another node back first, or add --data last=yes"
            )


def note() -> str:
    """Return who holds a node back since when, and why, in one line, for `status` to show."""
    who = os.environ.get("SUDO_USER") or getpass.getuser()
    since = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    why = " ".join(str(pyinfra.host.data.get("why") or "no reason given").split())
    return f"{why} ({who} on {socket.gethostname()}, {since})"


def left(host: Host, node: Host) -> Callable[[], str] | None:
    """Return a check for the gate: a balancer has taken the node out, and its last request has ended."""

    def check(server: Server) -> str:
        if server.up:
            return f"{host.name} still sends visitors to {node.name}"
        return f"{node.name} still works on {server.sessions} requests" if server.sessions else ""

    return _asked(host, node, check)


def came_back(host: Host, node: Host) -> Callable[[], str] | None:
    """Return a check for the gate: a balancer sends visitors to the node again."""

    def check(server: Server) -> str:
        if server.up:
            return ""
        return (
            f"{host.name} sends no visitors to {node.name}: it is {server.status} ({server.check})"
        )

    return _asked(host, node, check)


def _asked(host: Host, node: Host, check: Callable[[Server], str]) -> Callable[[], str] | None:
    if "balancer" not in host.tiers:
        return None

    def ask() -> str:
        servers: list[Server] = pyinfra.host.get_fact(HaproxyStat)
        for server in servers:
            if (server.backend, server.name) == ("web", node.name):
                return check(server)
        return f"HAProxy on {host.name} does not run, or does not know {node.name}"

    return ask
