"""HAProxy as it runs: its servers in one fact, and who of them is led away from visitors.

Reason: pyinfra knows neither its socket nor its servers, and a node that leaves the inventory must
be idle before what it needs is taken from it.
"""

from __future__ import annotations

import csv
import json
import shlex
from collections.abc import Collection, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pyinfra import host
from pyinfra.api.facts import FactBase
from pyinfra.api.operation import operation

from tierstack.model.plan import Effect
from tierstack.operations.foreseen import Foreseen

SOCKET = "/run/haproxy/admin.sock"

_ASK = f"""
import socket, time
def ask(command):
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5)
        connection.connect("{SOCKET}")
        connection.sendall(command.encode() + b"\\n")
        return b"".join(iter(lambda: connection.recv(65536), b"")).decode()
"""

_STAT = (
    _ASK
    + """
try:
    print(ask("show stat"))
except OSError:
    pass
"""
)

# A server without sessions may still have some in the moment after the drain: it is asked twice.
_DRAIN = (
    _ASK
    + """
import csv
for server in servers:
    ask("set server %s state drain" % server)
deadline = time.monotonic() + patience_s
idle = 0
while idle < 2:
    rows = csv.DictReader(ask("show stat").lstrip("# ").splitlines())
    busy = [
        "%s/%s %s" % (row["pxname"], row["svname"], row["scur"])
        for row in rows
        if "%s/%s" % (row["pxname"], row["svname"]) in servers and row["scur"] != "0"
    ]
    idle = 0 if busy else idle + 1
    if busy and time.monotonic() > deadline:
        print("still busy after %d s, left to end by themselves: %s" % (patience_s, ", ".join(busy)))
        break
    time.sleep(0.1)
"""
)

_READY = (
    _ASK
    + """
for server in servers:
    ask("set server %s state ready" % server)
"""
)


@dataclass(frozen=True)
class Server:
    """
    One server of a running HAProxy.

    Args:
        backend: "web" or "media".
        name: the host's name in the inventory.
        address: address and port.
        status: "UP", "DOWN", "NOLB" (its health path answers 404), "DRAIN", "MAINT"; while checks
            change it also "UP 1/2" or "DOWN 1/2".
        sessions: requests that it works on now.
        check: what the last health check said, e.g. "L7OK 200" or "L4CON Connection refused".
        since_s: for how long it has had this status, in seconds.
    """

    backend: str
    name: str
    address: str
    status: str
    sessions: int
    check: str
    since_s: int

    @property
    def up(self) -> bool:
        """Whether it gets visitors."""
        return self.status.startswith("UP") or self.status == "no check"

    @property
    def held(self) -> bool:
        """
        Whether it is out of rotation by its own or its operator's will.

        A node that boots while it is held back counts as down, with the same answer.
        """
        return not self.status.startswith("DOWN") or self.check.startswith("L7STS 404")


class HaproxyStat(FactBase[list[Server]]):
    """
    The servers of the running HAProxy; none when it does not run.

    Source: HAProxy management guide, 9.1, "CSV format".
    """

    def command(self) -> str:
        return f"python3 -c {shlex.quote(_STAT)}"

    @staticmethod
    def default() -> list[Server]:
        return []

    def process(self, output: list[str]) -> list[Server]:
        rows = csv.DictReader(line.removeprefix("# ") for line in output if line)
        # Beside the hosts there are sums, and the way of uploads through HAProxy itself.
        return [
            _server(row)
            for row in rows
            if row["svname"] not in ("FRONTEND", "BACKEND") and row["addr"] != "unix"
        ]


def _server(row: Mapping[str, str]) -> Server:
    status, code = row["check_status"].lstrip("* "), row["check_code"]
    return Server(
        backend=row["pxname"],
        name=row["svname"],
        address=row["addr"],
        status=row["status"],
        sessions=int(row["scur"] or 0),
        check=" ".join(filter(None, [status, code, row["last_chk"]])),
        since_s=int(row["lastchg"] or 0),
    )


@operation()
def only_nodes(
    nodes: Mapping[str, Collection[str]], patience_s: int
) -> Generator[Foreseen, None, None]:
    """
    Lead visitors away from servers that are no longer wanted, and wait until these are idle.

    A server that an earlier run led away and that is wanted again is let back in; one that
    somebody has put in maintenance stays there. Nothing happens where HAProxy does not run.

    Args:
        nodes: names of the servers that are wanted, by backend.
        patience_s: how long to wait for requests that still run, in seconds.
    """
    servers: list[Server] = host.get_fact(HaproxyStat)
    leave, back = judge(servers, nodes)
    if back:
        notes = tuple(f"lets visitors back in to {_node(server)}" for server in back)
        yield _program(_READY, Effect(notes=notes), servers=back)
    if leave:
        effect = Effect(drains=tuple(_node(server) for server in leave))
        yield _program(_DRAIN, effect, servers=leave, patience_s=patience_s)


def judge(
    servers: Sequence[Server], nodes: Mapping[str, Collection[str]]
) -> tuple[list[str], list[str]]:
    """
    Return which servers are to leave and which may come back, each as "backend/name".

    A backend none of whose wanted servers is up stays as it is: whoever is left serves on. So does
    one that is not ours, where HAProxy still runs with another configuration.
    """
    leave, back = [], []
    for backend, names in nodes.items():
        mine = [server for server in servers if server.backend == backend]
        wanted = [server for server in mine if server.name in names]
        back += [server for server in wanted if server.status.startswith("DRAIN")]
        if any(server.up for server in wanted):
            leave += [
                server
                for server in mine
                if server.name not in names
                and (server.up or server.status.startswith("NOLB") or server.sessions)
            ]
    return _full_names(leave), _full_names(back)


def _full_names(servers: Sequence[Server]) -> list[str]:
    return [f"{server.backend}/{server.name}" for server in servers]


def _node(server: str) -> str:
    return server.partition("/")[2]


def _program(source: str, effect: Effect, **values: Any) -> Foreseen:
    lines = "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items())
    return Foreseen("python3 -", effect=effect, _stdin=lines + source)
