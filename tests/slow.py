"""Visitors who are many at once: each says a byte now and then, or nothing, and never comes to an end."""

from __future__ import annotations

import contextlib
import selectors
import socket
import ssl
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.visitor import Door

#: How often each says one byte more, in seconds: before any of the balancer's time-outs has passed.
PERIOD_S = 4.0


@dataclass
class Slow:
    """How it goes for slow visitors: how many there are still, and what the others were told."""

    waiting: int = 0
    answers: Counter[int] = field(default_factory=Counter)


@contextmanager
def elsewhere(door: Door) -> Iterator[str]:
    """Give this machine one more address in the lab's network, from which others come meanwhile."""
    address = door.address.rpartition(".")[0] + ".250"
    way = subprocess.check_output(["ip", "-o", "route", "get", door.address], text=True).split()
    change = [f"{address}/32", "dev", way[way.index("dev") + 1]]
    subprocess.run(["ip", "address", "add", *change], check=True)
    try:
        yield address
    finally:
        subprocess.run(["ip", "address", "del", *change], check=True)


@contextmanager
def silent_visitors(door: Door, count: int, address: str) -> Iterator[list[socket.socket]]:
    """Connect so many times from an address, and say nothing; away when the block ends."""
    connections = []
    for _ in range(count):
        with contextlib.suppress(ConnectionError):  # One that is refused may be cut this early.
            connections.append(_connect(door, address))
    try:
        yield connections
    finally:
        for connection in connections:
            connection.close()


def open_ones(connections: list[socket.socket]) -> int:
    """Return how many of some connections the other side has not closed."""
    found = 0
    for connection in connections:
        connection.setblocking(False)
        try:
            connection.recv(1)
        except BlockingIOError:
            found += 1
        except OSError:
            continue
    return found


def _connect(door: Door, address: str) -> socket.socket:
    return socket.create_connection(
        (door.address, door.port or 443), timeout=10, source_address=(address, 0)
    )


@contextmanager
def slow_visitors(door: Door, address: str, count: int, *begun: bytes) -> Iterator[Slow]:
    """
    Let slow visitors in, and take those that are left away when the block ends.

    Args:
        door: where they come in.
        address: where they come from.
        count: how many there are.
        begun: what each says at once; several beginnings are taken in turn.
    """
    slow = Slow()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE

    def begin(number: int) -> ssl.SSLSocket:
        connection = context.wrap_socket(_connect(door, address))
        connection.sendall(begun[number % len(begun)])
        connection.setblocking(False)
        return connection

    with ThreadPoolExecutor(8) as pool:
        connections = list(pool.map(begin, range(count)))
    slow.waiting = count
    stop = threading.Event()
    crowd = threading.Thread(target=_drip, args=(connections, slow, stop), daemon=True)
    crowd.start()
    try:
        yield slow
    finally:
        stop.set()
        crowd.join(timeout=15)
        for connection in connections:
            connection.close()


def _drip(connections: list[ssl.SSLSocket], slow: Slow, stop: threading.Event) -> None:
    with selectors.DefaultSelector() as selector:
        for connection in connections:
            selector.register(connection, selectors.EVENT_READ)
        due = time.monotonic() + PERIOD_S
        while slow.waiting and not stop.is_set():
            for key, _ in selector.select(timeout=0.2):
                assert isinstance(key.fileobj, ssl.SSLSocket)
                try:
                    said = key.fileobj.recv(4096)
                except ssl.SSLWantReadError:  # TLS's own, e.g. a session ticket.
                    continue
                except OSError:
                    said = b""
                selector.unregister(key.fileobj)
                slow.answers[int(said[9:12] or 0)] += 1
                slow.waiting -= 1
            if time.monotonic() > due:
                due += PERIOD_S
                for key in list(selector.get_map().values()):
                    assert isinstance(key.fileobj, ssl.SSLSocket)
                    with contextlib.suppress(OSError):  # Cut in this moment: it is read above.
                        key.fileobj.send(b"x")
