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
from paramiko import SSHException
from pyinfra import state
from pyinfra.api.command import StringCommand
from pyinfra.api.host import Host
from pyinfra.connectors.util import make_unix_command_for_host
from pyinfra.context import ctx_host

from tierstack.engine import connector_arguments

_HEARTBEAT_S = 10.0

#: Given as an argument: its standard input is what tells it that the run lives.
_HOLDER = (Path(__file__).parent / "operations" / "lock_agent.py").read_text(encoding="utf-8")

#: Connections that hold a lock; they end with this process.
_held: list[Any] = []


def lock_out_others(hosts: list[Host]) -> dict[str, str]:
    """
    Take the lock of each host for as long as this process lives.

    Returns:
        By host name, why the lock of a host could not be taken. Without it, nothing may be changed.
    """
    asked = {host.name: gevent.spawn(_lock, host) for host in hosts}
    answers = {name: greenlet.get() for name, greenlet in asked.items()}
    # Each by itself: one that hangs must not have the others lose theirs.
    for stdin, *_ in _held:
        gevent.spawn(_beat, stdin)
    return {name: who for name, who in answers.items() if who}


def _lock(host: Host) -> str:
    client = getattr(host.connector, "client", None)
    if client is None:
        return refusal("", "it is not reached by SSH")
    with ctx_host.use(host):
        how = connector_arguments(host)
    # The connector's own part, which is done here: the command is to go on while we go on.
    for handled in ("_get_pty", "_timeout", "_stdin", "_success_exit_codes"):
        how.pop(handled, None)
    command = StringCommand(shlex.join(["python3", "-c", _HOLDER, _me()]))
    text = make_unix_command_for_host(state, host, command, **how).get_raw_value()
    try:
        channels = client.exec_command(text, timeout=60)
        answer = channels[1].readline().strip()
        if answer == "ours":
            _held.append(channels)
        said = "" if answer else channels[2].read().decode(errors="replace")
    except (OSError, EOFError, SSHException) as error:
        answer, said = "", str(error) or "no answer within 60 s"
    return refusal(answer, said)


def refusal(answer: str, said: str) -> str:
    """
    Return why a run may not begin on a host, "" if it has given its lock.

    Args:
        answer: what `lock_agent.py` has answered.
        said: what else was said, e.g. why it could not be run.
    """
    if answer == "ours":
        return ""
    if answer.startswith("held "):
        return f"another run has it: {answer.removeprefix('held ')}; wait for its end, or end it"
    last = (["it says nothing", *said.strip().splitlines()])[-1]
    return (
        f"its lock cannot be taken ({last}), and without it two runs might meet there; look whether"
        " python3 works on it and /run has room, and try again"
    )


def _beat(stdin: Any) -> None:
    while True:
        gevent.sleep(_HEARTBEAT_S)
        with suppress(OSError, EOFError, SSHException):
            stdin.write("\n")
            stdin.flush()


def _me() -> str:
    who = os.environ.get("SUDO_USER") or getpass.getuser()
    since = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    # It stands in the list of the host's processes: no option, which may be a password.
    files = [word for word in sys.argv[1:] if word.endswith(".py") and not word.startswith("-")]
    what = " ".join([Path(sys.argv[0]).name, *files])
    return f"{who} on {socket.gethostname()} since {since} (`{what}`, process {os.getpid()})"
