"""A run's connections to its hosts: without delays, and given up when a host falls silent."""

from __future__ import annotations

import shlex
import socket
from contextlib import suppress

import gevent
from paramiko import SSHException, Transport
from pyinfra import logger
from pyinfra.api.host import Host
from pyinfra.api.state import BaseStateCallback, State

#: How often a host's SSH server is asked whether it is there, and how long its answer may take, in
#: seconds: as OpenSSH with ServerAliveInterval=10 and ServerAliveCountMax=2.
_ASK_S, _SILENCE_S = 10, 20


class Undelayed(BaseStateCallback):
    """
    Has each connection send at once.

    Reason: paramiko leaves Nagle's algorithm on; a command then waits some 45 ms, until the host has
    acknowledged what came before it.
    """

    def host_connect(self, state: State, host: Host) -> None:  # type: ignore[override]
        """Set the connection's TCP_NODELAY; one by way of another program has no socket of ours."""
        transport = _transport(host)
        connection = transport.sock if transport else None
        if isinstance(connection, socket.socket):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class Heartbeat(BaseStateCallback):
    """
    Gives a connection up whose host does not answer for 30 s, so that the run ends.

    Reason: a host without power or network sends nothing, not even that it is gone, and paramiko
    waits for it for ever; TCP's own keep-alive takes a hanging host for a living one.
    """

    def host_connect(self, state: State, host: Host) -> None:  # type: ignore[override]
        """Watch a connection from now on."""
        if transport := _transport(host):
            gevent.spawn(_watch, host, transport)


def is_lost(host: Host) -> bool:
    """Return whether a connection that was there is there no more."""
    transport = _transport(host)
    return transport is not None and not transport.is_active()


def login(host: Host) -> str:
    """Return what to type to reach a host as the run does."""
    target = host.data.get("ssh_hostname") or host.name
    user = host.data.get("ssh_user")
    port = ["-p", str(host.data.ssh_port)] if host.data.get("ssh_port") else []
    return shlex.join(["ssh", *port, f"{user}@{target}" if user else target])


def _transport(host: Host) -> Transport | None:
    """Return the SSH connection to a host; None for the controller's own machine."""
    client = getattr(host.connector, "client", None)
    return client.get_transport() if client else None


def _watch(host: Host, transport: Transport) -> None:
    gevent.sleep(_ASK_S)
    while transport.is_active():
        asked = gevent.spawn(_ask, transport)
        # Second by second: while this process is busy itself, the host's answer lies unread.
        for _ in range(_SILENCE_S):
            asked.join(timeout=1)
            if asked.ready():
                break
        else:
            logger.error(
                f"{host.print_prefix}has not answered for {_SILENCE_S} s; the connection is given up"
            )
            transport.close()
        gevent.sleep(_ASK_S)


def _ask(transport: Transport) -> None:
    with suppress(SSHException, OSError, EOFError):
        transport.global_request("keepalive@openssh.com", wait=True)
