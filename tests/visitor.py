"""A steady visitor: asks for a page so many times a second and counts every answer."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any


@cache
def _any_certificate() -> ssl.SSLContext:
    # Once for all visitors: to make one takes as long as a page.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


@dataclass
class Answer:
    """What one request got: status 0 means that no answer came, and `error` says why."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    error: str = ""
    seconds: float = 0.0
    cookies: list[str] = field(default_factory=list)
    #: The headers as they came: a name may be there twice.
    lines: list[tuple[str, str]] = field(default_factory=list)

    def __getitem__(self, header: str) -> str:
        return self.headers.get(header.lower(), "")

    @property
    def text(self) -> str:
        return self.body.decode(errors="replace")

    def json(self) -> Any:
        """Return what a page of JSON says."""
        return json.loads(self.body)


@dataclass
class Door:
    """
    A way into a site, as a visitor takes it; its certificate is not judged.

    Args:
        address: IP address of a balancer.
        domain: the site's host name.
        tls: https or http.
        port: None for the scheme's own.
        patience_s: how long who comes in waits for an answer, in seconds.
    """

    address: str
    domain: str
    tls: bool = True
    port: int | None = None
    patience_s: float = 10.0

    def ask(
        self,
        path: str = "/",
        method: str = "GET",
        body: bytes | Iterator[bytes] | None = None,
        headers: dict[str, str] | None = None,
        timeout_s: float | None = None,
        chunked: bool = False,
    ) -> Answer:
        """Send one request on a connection of its own and return what came back."""
        began = time.monotonic()
        timeout_s = timeout_s or self.patience_s
        connection: http.client.HTTPConnection
        if self.tls:
            connection = http.client.HTTPSConnection(
                self.address, self.port or 443, timeout=timeout_s, context=_any_certificate()
            )
        else:
            connection = http.client.HTTPConnection(
                self.address, self.port or 80, timeout=timeout_s
            )
        try:
            connection.request(
                method,
                path,
                body=body,
                headers={"Host": self.domain, "Connection": "close", **(headers or {})},
                encode_chunked=chunked,
            )
            response = connection.getresponse()
            return Answer(
                response.status,
                response.read(),
                {key.lower(): value for key, value in response.getheaders()},
                seconds=time.monotonic() - began,
                cookies=response.headers.get_all("set-cookie") or [],
                lines=[(key.lower(), value) for key, value in response.getheaders()],
            )
        except (TimeoutError, OSError, http.client.HTTPException) as error:
            return Answer(0, error=repr(error), seconds=time.monotonic() - began)
        finally:
            connection.close()

    def connect(self) -> ssl.SSLSocket:
        """Return a connection to say something on that is no whole request."""
        plain = socket.create_connection((self.address, self.port or 443), self.patience_s)
        return _any_certificate().wrap_socket(plain)


@dataclass
class Seen:
    """What a steady visitor has seen so far."""

    requests: int = 0
    failed: list[str] = field(default_factory=list)
    slowest_s: float = 0.0
    nodes: set[str] = field(default_factory=set)


@contextmanager
def steady_visitor(door: Door, path: str, per_second: int = 20) -> Iterator[Seen]:
    """
    Ask for `path` steadily until the block ends.

    A request fails when it gets no answer within the door's patience, or one of 400 or more. Requests start on a
    fixed clock, so a slow answer does not thin them out.

    Args:
        door: where to ask.
        path: what to ask for.
        per_second: requests a second.
    """
    seen = Seen()
    lock = threading.Lock()
    stop = threading.Event()
    pending: list[threading.Thread] = []

    def one(number: int) -> None:
        answer = door.ask(path)
        with lock:
            seen.requests += 1
            seen.slowest_s = max(seen.slowest_s, answer.seconds)
            if node := answer["x-node"]:
                seen.nodes.add(node)
            if answer.status == 0 or answer.status >= 400:
                at = time.strftime("%H:%M:%S")
                seen.failed.append(
                    f"{at} request {number}: {answer.status} {answer.error} {answer.text[:80]!r}"
                    f" after {answer.seconds:.2f} s"
                )

    def pace() -> None:
        began = time.monotonic()
        number = 0
        while not stop.is_set():
            number += 1
            thread = threading.Thread(target=one, args=(number,), daemon=True)
            pending.append(thread)
            thread.start()
            stop.wait(max(0.0, began + number / per_second - time.monotonic()))

    pacer = threading.Thread(target=pace, daemon=True)
    pacer.start()
    try:
        yield seen
    finally:
        stop.set()
        pacer.join()
        for thread in pending:
            thread.join(timeout=15)


class Written:
    """What a steady writer has sent: ids of the rows that the site has acknowledged, and failures."""

    def __init__(self) -> None:
        self.acknowledged: set[int] = set()
        #: Two databases give the same id twice.
        self.count = 0
        self.failed: list[str] = []


@contextmanager
def steady_writer(door: Door, pause_s: float = 0.5) -> Iterator[Written]:
    """Sign the guestbook, with a pause between, until the block ends."""
    written = Written()
    stop = threading.Event()

    def write() -> None:
        while not stop.wait(pause_s):
            answer = door.ask("/guestbook.json", "POST", b"I was here.")
            if answer.status == 201:
                written.count += 1
                written.acknowledged.add(json.loads(answer.body)["id"])
            else:
                written.failed.append(f"{answer.status} {answer.error} {answer.text[:80]}")

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    try:
        yield written
    finally:
        stop.set()
        writer.join(timeout=15)
