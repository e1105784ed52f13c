"""Who reaches whom, tried out: from every place to every port of every other, over IPv4 and IPv6.

A firewall drops, so that nobody answers; a port without a listener refuses, and shows that the
firewall has let somebody through to it. Listeners on ports that nothing uses make sure that what
keeps others out is the firewall.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import NamedTuple

from tests.needs import need
from tests.operator import Operator
from tierstack.lab.network import Network
from tierstack.lab.settings import Settings

#: Nothing uses them, not even as the near end of a connection that it makes (ip(7), local port range);
#: every place listens there, by TCP and by UDP.
FREE = (4242, 27474)

#: What other programs listen on by habit.
_USUAL = (21, 22, 25, 53, 80, 111, 123, 443, 2049, 2222, 3306, 5432, 6379, 8000, 8404, 9000, 11211)

_LISTEN = """
import json, select, socket, sys

def bound(kind, address, port):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.socket(family, kind)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, address != "::")
    listener.bind((address, port))
    return listener

addresses, tcp, udp = json.loads(sys.argv[1])
open_ones = [bound(socket.SOCK_STREAM, address, port) for address in addresses for port in tcp]
for listener in open_ones:
    listener.listen(1024)  # The kernel accepts.
answering = [bound(socket.SOCK_DGRAM, address, port) for address in addresses for port in udp]
print("listening", flush=True)
while True:
    for listener in select.select(answering, [], [])[0]:
        said, peer = listener.recvfrom(99)
        listener.sendto(said, peer)
"""

_PROBE = """
import errno, json, select, socket, time

ENDS = {0: "open", errno.ECONNREFUSED: "refused"}
ENDS.update(dict.fromkeys((errno.EPERM, errno.EACCES, errno.EHOSTUNREACH), "barred"))

def try_all(ways, wait_s):
    poll, pending, found = select.poll(), {}, []
    for protocol, address, port in ways:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        tcp = protocol == "tcp"
        one = socket.socket(family, socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM)
        one.setblocking(False)
        status = one.connect_ex((address, port))
        if not tcp and status == 0:
            try:
                one.send(b"?")
                status = errno.EINPROGRESS
            except OSError as error:
                status = error.errno
        pending[one.fileno()] = one, [protocol, address, port]
        if status == errno.EINPROGRESS:
            poll.register(one, select.POLLOUT if tcp else select.POLLIN)
        else:
            found.append([*pending.pop(one.fileno())[1], ENDS.get(status, str(status))])
    end = time.monotonic() + wait_s
    while pending and time.monotonic() < end:
        for number, _ in poll.poll(max(0, end - time.monotonic()) * 1000):
            one, way = pending.pop(number)
            poll.unregister(number)
            status = one.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            found.append([*way, ENDS.get(status, str(status))])
            one.close()
    return found + [[*way, "silent"] for _, way in pending.values()]

"""


class Way(NamedTuple):
    """A port of somebody else."""

    protocol: str
    address: str
    port: int


@dataclass(frozen=True)
class Place:
    """Where a connection starts or ends: a host, or outside of the cluster, where tests run."""

    name: str
    address: str
    address6: str
    tiers: tuple[str, ...]


class Field:
    """
    All hosts and the outside, with addresses of both families and listeners.

    Args:
        operator: whose cluster it is.
        places: the hosts in inventory order, then the outside.
    """

    def __init__(self, operator: Operator, places: Sequence[Place]) -> None:
        self.operator = operator
        self.places = places
        self.outside = places[-1]
        self._flows = operator.cluster().flows
        #: All ports to try: of flows, of what listens anywhere, and the usual ones.
        self.ports = {flow.port for flow in self._flows} | {*FREE, *_USUAL}
        for listening in self.ask_all(lambda _: "ss -Hltun | awk '{print $5}'"):
            self.ports |= {int(line.rpartition(":")[2]) for line in listening.split()}

    def place(self, name: str) -> Place:
        """Return the place of that name."""
        return next(place for place in self.places if place.name == name)

    def lets_in(self, source: Place, target: Place, way: Way) -> bool:
        """Return whether a flow leads in there: one for anybody, or one from the source's tiers."""
        anybody = self._leads(("internet", "admin"), target, way)
        return anybody or self.lets_out(source, target, way)

    def lets_out(self, source: Place, target: Place, way: Way) -> bool:
        """Return whether a flow of the source's tiers leads there; these are IPv4 alone."""
        return way.address == target.address and self._leads(source.tiers, target, way)

    def _leads(self, sources: Sequence[str], target: Place, way: Way) -> bool:
        return any(
            flow.source in sources
            and flow.target in (*target.tiers, "all")
            and (flow.protocol, flow.port) == (way.protocol, way.port)
            for flow in self._flows
        )

    def wrong(self, expected: Callable[[Place, Place, Way], set[str]]) -> list[str]:
        """
        Try every way from every place to every other; return what is not as expected.

        Args:
            expected: says what is right: "open", "silent" if the other end drops it, "barred" if
                this end rejects it.
        """

        def wrong_from(source: Place) -> list[str]:
            targets = {
                Way(protocol, address, port): target
                for target in self.places
                if target is not source
                for protocol in ("tcp", "udp")
                for address in (target.address, target.address6)
                for port in (FREE if target is self.outside else self.ports)
            }
            right = {way: expected(source, target, way) for way, target in targets.items()}
            seen = self.probe(source, targets)
            # A packet may get lost on a busy machine, and the kernel rejects so many a second.
            lost = [way for way in seen if seen[way] == "silent" and "silent" not in right[way]]
            seen |= self.probe(source, lost, wait_s=10) if lost else {}
            return [
                f"{source.name} to {target.name} at {' '.join(map(str, way))}: {seen[way]}, not {right[way]}"
                for way, target in targets.items()
                if seen[way] not in right[way]
            ]

        with ThreadPoolExecutor(len(self.places)) as pool:
            return [line for lines in pool.map(wrong_from, self.places) for line in lines]

    def probe(self, source: Place, ways: Collection[Way], wait_s: float = 2) -> dict[Way, str]:
        """
        Try ways from a place, all at once.

        Returns:
            For each "open", "refused", "silent", or "barred" where it may not go out.
        """
        # SSH comes last: its servers let few in at once that have not logged in, as others do now.
        parts = [[way for way in ways if (way.port == 22) == ssh] for ssh in (False, True)]
        tried = [f"try_all({json.dumps(part)}, {wait_s})" for part in parts]
        program = f"{_PROBE}print(json.dumps({' + '.join(tried)}))\n"
        if source is self.outside:
            command = [sys.executable, "-"]
            said = subprocess.run(
                command, input=program, capture_output=True, text=True, check=True
            ).stdout
        else:
            said = self._ask(source, "python3 -", program)
        return {Way(*way): seen for *way, seen in json.loads(said)}

    def ask_all(self, command: Callable[[Place], str], given: str = "") -> list[str]:
        """Return what a shell command prints on each host, all at once."""
        hosts = self.places[:-1]
        with ThreadPoolExecutor(len(hosts)) as pool:
            return list(pool.map(lambda host: self._ask(host, command(host), given), hosts))

    def _ask(self, place: Place, command: str, given: str) -> str:
        """Return what a shell command prints there; an inventory cannot be loaded by many at once."""
        done = self.operator.on_address(place.address, command, given=given)
        assert done.status == 0, f"{place.name}: {command}\n{done.said}"
        return done.out.strip()


@contextmanager
def field_of(operator: Operator) -> Iterator[Field]:
    """Give every place an IPv6 address, and have it listen on free ports, until the block ends."""
    need(None if Path("/proc/net/if_inet6").exists() else "the kernel has no IPv6")
    network = Network(Settings.from_environment().subnet)
    places = [
        Place(host.name, host.address, _address6(host.address), host.tiers)
        for host in operator.cluster().hosts
    ]
    gateway = str(network.gateway)
    outside = Place("outside", gateway, _address6(gateway), ())
    field = Field(operator, [*places, outside])
    with _here(network.bridge, outside):
        # memcached has a UDP port, too, which is off.
        command = f"python3 /run/test-listen.py {_quoted(['::'], [*FREE, 11211])}"
        try:
            field.ask_all(
                lambda host: (
                    f"ip -6 address replace {host.address6}/64 dev eth0 nodad"
                    " && cat > /run/test-listen.py"
                    f" && systemd-run -q --unit=test-listen --collect {command}"
                    " && for i in $(seq 100); do ss -Hlun sport = 11211 | grep -q . && exit; sleep 0.1; done;"
                    " journalctl -u test-listen -n 20 -o cat; exit 1"
                ),
                given=_LISTEN,
            )
            yield field
        finally:
            field.ask_all(
                lambda host: (
                    "systemctl stop test-listen; rm /run/test-listen.py;"
                    f" ip -6 address delete {host.address6}/64 dev eth0"
                )
            )


@contextmanager
def tunnel_to(operator: Operator, name: str) -> Iterator[str]:
    """Make a tunnel from here to a host, both ends on UDP 8472 as WireGuard's would be; its address there."""
    network = Network(Settings.from_environment().subnet)
    address = operator.cluster().host(name).address
    here, there = (f"172.31.{str(network.gateway).split('.')[2]}.{end}" for end in (1, 2))

    def commands(peer: str, device: str, own: str) -> str:
        return (
            f"ip link add tunnel type vxlan id 7 remote {peer} dstport 8472 srcport 8472 8473 dev {device}"
            f" && ip address add {own}/30 dev tunnel && ip link set tunnel up"
        )

    known = Settings.from_environment().known_hosts
    before = known.read_text(encoding="utf-8")
    keys = [line for line in before.splitlines() if line.startswith(f"{address} ")]
    known.write_text(before + "\n".join(keys).replace(address, there) + "\n", encoding="utf-8")
    operator.ask(name, commands(str(network.gateway), "eth0", there))
    try:
        subprocess.run(["sh", "-c", commands(address, network.bridge, here)], check=True)
        # Packets go both ways before a firewall looks at them.
        operator.ask(
            name, f'python3 -c \'import socket; socket.socket(2, 2).sendto(b"", ("{here}", 9))\''
        )
        yield there
    finally:
        subprocess.run(["ip", "link", "delete", "tunnel"], check=False)
        operator.ask(name, "ip link delete tunnel")
        known.write_text(before, encoding="utf-8")


@contextmanager
def _here(bridge: str, outside: Place) -> Iterator[None]:
    """Do the same on this machine; the bridge's address goes with the bridge at the latest."""
    address = ["ip", "-6", "address"]
    subprocess.run(
        [*address, "replace", f"{outside.address6}/64", "dev", bridge, "nodad"], check=True
    )
    arguments = shlex.split(_quoted([outside.address, outside.address6], FREE))
    command = [sys.executable, "-c", _LISTEN, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as listener:
        try:
            assert listener.stdout
            assert listener.stdout.readline() == "listening\n"
            yield
        finally:
            listener.terminate()
            subprocess.run(
                [*address, "delete", f"{outside.address6}/64", "dev", bridge], check=False
            )


def _quoted(addresses: Sequence[str], udp: Sequence[int]) -> str:
    return shlex.quote(json.dumps([addresses, FREE, udp]))


def _address6(address: str) -> str:
    """Return the IPv6 address that goes with one of the lab; another lab's is in another network."""
    number = int(IPv4Address(address))
    return str(IPv6Address("fd54:7374::") + ((number >> 8) << 64) + (number & 0xFF))
