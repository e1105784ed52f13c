"""One run at a time on a host: a lock that is held by the run's own connection.

It ends with the connection, so a run that was killed leaves none behind; one whose controller has
vanished from the network loses it when it has not been heard of for 45 s: by then it has given the
host up (connection.py). The next run waits for that.
"""

from __future__ import annotations

import datetime
import getpass
import os
import shlex
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import gevent
from pyinfra import state
from pyinfra.api.command import StringCommand
from pyinfra.api.host import Host
from pyinfra.connectors.util import make_unix_command_for_host
from pyinfra.context import ctx_host

from tierstack.engine import connector_arguments

_HEARTBEAT_S = 10.0

#: Runs on the host: says "ours", or who has the lock; keeps it until its input ends or falls silent.
_HOLDER = """
import fcntl, os, select, sys, time
os.makedirs("/run/tierstack", exist_ok=True)
lock = open("/run/tierstack/run.lock", "a+")
tries = 0
while True:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        break
    except BlockingIOError:
        # A run that has just ended is still on its way out; one that has fallen silent is let go.
        if tries > 15 and time.time() - os.fstat(lock.fileno()).st_mtime < 15:
            lock.seek(0)
            print("held " + lock.read(), flush=True)
            sys.exit()
        tries += 1
        time.sleep(0.2)
lock.truncate(0)
lock.write(sys.argv[1])
lock.flush()
print("ours", flush=True)
while select.select([0], [], [], 45)[0] and os.read(0, 99):
    os.utime(lock.fileno())
"""

#: Connections that hold a lock; they end with this process.
_held: list[Any] = []


def lock_out_others(hosts: list[Host]) -> dict[str, str]:
    """
    Take the lock of each host for as long as this process lives.

    Returns:
        By host name, who has the lock of a host that could not be taken, and since when.
    """
    asked = {host.name: gevent.spawn(_lock, host) for host in hosts}
    answers = {name: greenlet.get() for name, greenlet in asked.items()}
    gevent.spawn(_beat)
    return {name: who for name, who in answers.items() if who}


def _lock(host: Host) -> str:
    client = getattr(host.connector, "client", None)
    if client is None:
        return ""  # Not an SSH connection: the controller's own machine.
    with ctx_host.use(host):
        how = connector_arguments(host)
    # The connector's own part, which is done here: the command is to go on while we go on.
    for handled in ("_get_pty", "_timeout", "_stdin", "_success_exit_codes"):
        how.pop(handled, None)
    command = StringCommand(shlex.join(["python3", "-c", _HOLDER, _me()]))
    text = make_unix_command_for_host(state, host, command, **how).get_raw_value()
    channels = client.exec_command(text, timeout=60)
    answer = channels[1].readline().strip()
    if answer == "ours":
        _held.append(channels)
    return str(answer.removeprefix("held ")) if answer.startswith("held ") else ""


def _beat() -> None:
    while True:
        gevent.sleep(_HEARTBEAT_S)
        for stdin, *_ in _held:
            with suppress(OSError):
                stdin.write("\n")
                stdin.flush()


def _me() -> str:
    who = os.environ.get("SUDO_USER") or getpass.getuser()
    since = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    what = " ".join([Path(sys.argv[0]).name, *sys.argv[1:3]])
    return f"{who} on {socket.gethostname()} since {since} (`{what}`, process {os.getpid()})"
