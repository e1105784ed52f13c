"""A WSGI application behind mod_python: PEP 3333, sentence by sentence. What Apache makes of it, hosts show."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterator
from typing import Any
from wsgiref.types import WSGIApplication
from wsgiref.validate import validator

import pytest

from tests.model.mod_python_request import Request
from tierstack.agents.mod_python import serve

TEXT = [("Content-Type", "text/plain")]


def answering(
    *blocks: bytes, status: str = "200 OK", headers: list[tuple[str, str]] | None = None
) -> WSGIApplication:
    """Return an application that answers so."""

    def application(_environ: dict[str, Any], start: Any) -> list[bytes]:
        start(status, TEXT if headers is None else headers)
        return list(blocks)

    return application


def served(application: WSGIApplication, request: Request | None = None) -> Request:
    """Return the request that an application has answered, and well."""
    request = request or Request()
    assert serve(request, application) == 0
    return request


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """What was logged: the last line of each traceback."""

    def lines() -> list[str]:
        assert all(record.name == "django.request" for record in caplog.records)
        return [str(record.exc_info and record.exc_info[1]) for record in caplog.records]

    caplog.set_level(logging.DEBUG)
    return lines


def test_answer_of_unknown_length_is_sent_in_chunks_of_ours() -> None:
    """Apache would end its own chunks well, whatever has become of the answer."""
    request = served(answering(b"one", b"", b"two"))
    assert request.sent == [b"3\r\none\r\n", b"3\r\ntwo\r\n", b"0\r\n\r\n"]
    assert request.headers == {"Transfer-Encoding": "chunked"}
    assert (request.status, request.status_line) == (200, b"200 OK")
    assert request.content_type == b"text/plain", "Apache's own type would win over a header"


def test_answer_of_known_length_is_sent_as_it_is() -> None:
    """And so is one to HTTP/1.0, which knows no chunks."""
    request = served(answering(b"12", b"345", headers=[*TEXT, ("content-length", "5")]))
    assert (request.sent, request.headers) == ([b"12", b"345"], {"Content-Length": "5"})
    old = Request()
    old.proto_num = 1000
    assert (served(answering(b"12"), old).sent, old.headers) == ([b"12"], {})


def test_empty_answer_has_the_length_0() -> None:
    """Not none, and no chunks."""
    for blocks in ([], [b""]):
        request = served(answering(*blocks))
        assert (request.sent, request.headers) == ([None], {"Content-Length": "0"})


@pytest.mark.parametrize(
    ("method", "status"), [("HEAD", "200 OK"), ("GET", "204 No Content"), ("GET", "304 Same")]
)
def test_answer_without_a_body(method: str, status: str) -> None:
    """HEAD, 204 and 304 have headers only; the blocks are not asked for, and closed."""
    found: list[str] = []

    class Blocks:
        def __iter__(self) -> Iterator[bytes]:
            found.append("asked")
            yield b"body"

        def close(self) -> None:
            found.append("closed")

    def application(_environ: dict[str, Any], start: Any) -> Blocks:
        start(status, [("Content-Length", "4"), ("ETag", "x")])
        return Blocks()

    request = served(application, Request(method=method))
    assert (request.sent, found) == ([], ["closed"])
    assert request.headers == {"ETag": "x", **({"Content-Length": "4"} if method == "HEAD" else {})}


def test_generator_starts_with_its_first_block() -> None:
    """Also where the answer has no body."""

    def application(_environ: dict[str, Any], start: Any) -> Iterator[bytes]:
        start("200 OK", TEXT)
        yield b"late"

    assert served(application).body == b"late"
    head = served(application, Request(method="HEAD"))
    assert (head.sent, head.status_line) == ([], b"200 OK")


def test_write_comes_before_the_blocks() -> None:
    """The callable that start_response returns; once the request has ended it is of no use."""
    kept: list[Any] = []

    def application(environ: dict[str, Any], start: Any) -> list[bytes]:
        kept.extend([start("200 OK", TEXT), environ["wsgi.input"]])
        kept[0](b"one ")
        return [b"two"]

    assert served(application).body == b"one two"
    with pytest.raises(ValueError, match="the request that this belongs to has ended"):
        kept[0](b"three")
    with pytest.raises(ValueError, match="closed"):
        kept[1].read()


def test_second_start_is_an_error(logged: Callable[[], list[str]]) -> None:
    """Without exc_info; with it, it replaces what has not been sent."""

    def twice(_environ: dict[str, Any], start: Any) -> list[bytes]:
        start("200 OK", TEXT)
        start("200 OK", TEXT)
        return [b"never"]

    request = Request()
    assert serve(request, twice) == 500
    assert (request.sent, request.headers) == ([], {})
    assert logged() == ["start_response was called a second time, without exc_info"]

    def replaced(_environ: dict[str, Any], start: Any) -> list[bytes]:
        start("200 OK", [*TEXT, ("Content-Length", "9"), ("X", "wrong")])
        error = ValueError("on purpose")
        start("500 Error", [("X", "right")], (ValueError, error, None))
        return [b"error"]

    request = served(replaced)
    assert (request.status, request.body) == (500, b"error")
    assert request.headers == {"X": "right", "Transfer-Encoding": "chunked"}
    assert len(logged()) == 1


def test_error_that_comes_too_late_is_raised_again(logged: Callable[[], list[str]]) -> None:
    """The answer is cut off: no client takes it for whole."""

    def application(_environ: dict[str, Any], start: Any) -> Iterator[bytes]:
        start("200 OK", TEXT)
        yield b"one"
        error = ValueError("on purpose")
        start("500 Error", TEXT, (ValueError, error, None))
        yield b"two"

    request = served(application)
    assert (request.body, request.ends_well) == (b"one", False)
    assert logged() == ["on purpose"]


@pytest.mark.parametrize("headers", [TEXT, [*TEXT, ("Content-Length", "9")]])
def test_answer_that_fails_half_way_is_cut(
    logged: Callable[[], list[str]], headers: list[tuple[str, str]]
) -> None:
    """Nothing of an error's page in its tail, and the error is logged once."""
    closed = []

    class Blocks:
        def __iter__(self) -> Iterator[bytes]:
            yield b"one"
            raise RuntimeError("on purpose")

        def close(self) -> None:
            closed.append(True)

    def application(_environ: dict[str, Any], start: Any) -> Blocks:
        start("200 OK", headers)
        return Blocks()

    request = served(application)
    assert (request.body, request.ends_well, closed) == (b"one", False, [True])
    assert request.connection.keepalive == 1
    assert logged() == ["on purpose"]


def test_answer_that_fails_at_once_is_an_error(logged: Callable[[], list[str]]) -> None:
    """Apache says so: nothing of the answer has been sent; and so it is where nothing was answered."""

    def fails(_environ: dict[str, Any], start: Any) -> list[bytes]:
        start("200 OK", [*TEXT, ("X", "wrong")])
        raise SystemExit("on purpose")

    request = Request()
    assert serve(request, fails) == 500
    assert (request.sent, request.headers, request.status) == ([], {}, 200)
    assert serve(Request(), lambda _environ, _start: [b"x"]) == 500
    assert serve(Request(), lambda _environ, _start: []) == 500
    assert logged() == [
        "on purpose",
        "the body came before start_response was called",
        "start_response was not called",
    ]


def test_length_is_kept(logged: Callable[[], list[str]]) -> None:
    """Fewer bytes than promised: cut. More: what was promised, and an error in the log."""
    short = served(answering(b"1234", headers=[("Content-Length", "5")]))
    assert (short.body, short.ends_well, short.connection.keepalive) == (b"1234", False, 1)
    empty = served(answering(headers=[("Content-Length", "5")]))
    assert (empty.sent, empty.headers) == ([None], {"Content-Length": "5"}), "Apache would say 0"
    long = served(answering(b"1234", b"5678", headers=[("Content-Length", "5")]))
    assert (long.body, long.ends_well, long.connection.keepalive) == (b"12345", True, 0)
    assert logged() == [
        "the answer is 1 bytes shorter than it said",
        "the answer is 5 bytes shorter than it said",
        "the answer is longer than its Content-Length",
    ]


def test_visitor_who_went_away_is_no_error(logged: Callable[[], list[str]]) -> None:
    """The blocks are closed, and nobody logs anything; any other failure of a write is an error."""
    closed = []

    def application(_environ: dict[str, Any], start: Any) -> Iterator[bytes]:
        start("200 OK", TEXT)
        try:
            while True:
                yield b"block"
        finally:
            closed.append(True)

    request = Request()
    request.is_gone = True
    served(application, request)
    assert (closed, logged()) == ([True], [])


@pytest.mark.parametrize(
    ("status", "header", "message"),
    [
        ("200", ("X", "a\nB: c"), "start_response: not a header: 'X': 'a\\nB: c'"),
        ("200", ("X Y", "a"), "start_response: not a header: 'X Y': 'a'"),
        ("200", ("Content-Length", "-1"), "start_response: not a Content-Length: '-1'"),
        ("OK", ("X", "a"), "start_response: not a status: 'OK'"),
        ("100 Continue", ("X", "a"), "start_response: not a status: '100 Continue'"),
        ("200 OK\r\nX: y", ("X", "a"), "start_response: not a status: '200 OK\\r\\nX: y'"),
    ],
)
def test_nothing_is_smuggled_into_the_head(
    logged: Callable[[], list[str]], status: str, header: tuple[str, str], message: str
) -> None:
    """A header is one header, and a status a status."""
    assert serve(Request(), answering(status=status, headers=[header])) == 500
    assert logged() == [message]


def test_headers_of_the_connection_are_the_servers_own() -> None:
    """Whatever the site says of it; its other headers go out as they are, subclasses of str too."""

    class Safe(str):
        __slots__ = ()

    headers = [
        ("Connection", "keep-alive"),
        ("transfer-encoding", "gzip"),
        ("X-Name", Safe("é")),
        ("Content-Length", "0"),
    ]
    assert served(answering(headers=headers)).headers == {"X-Name": "é", "Content-Length": "0"}


def test_blocks_are_bytes(logged: Callable[[], list[str]]) -> None:
    """mod_python would send a str as UTF-8."""
    wrong: Any = "text"
    assert serve(Request(), answering(wrong)) == 500
    assert logged() == ["the body's blocks are bytes, not str"]


@pytest.mark.parametrize("how", ["read", "all", "more", "line", "lines", "iter"])
@pytest.mark.parametrize("body", [b"", b"a\nb\n\nccc", b"x" * 200_000 + b"\n"])
def test_body_is_read_to_its_end(how: str, body: bytes) -> None:
    """By each of PEP 3333's ways, and b"" for ever after; what follows the body is left alone."""

    def application(environ: dict[str, Any], start: Any) -> list[bytes]:
        given: io.BufferedReader = environ["wsgi.input"]
        ways: dict[str, Callable[[], list[bytes]]] = {
            "read": lambda: [given.read(len(body))],
            "all": lambda: [given.read(-1)],
            "more": lambda: [given.read(1_000_000)],
            "line": lambda: [given.readline(), given.read(3), given.read()],
            "lines": lambda: given.readlines(),
            "iter": lambda: list(given),
        }
        parts = ways[how]()
        assert [given.read(5), given.read(), given.readline(), given.readlines()] == [
            b"", b"", b"", [],
        ]  # fmt: skip
        start("200 OK", TEXT)
        return parts

    length = b"%d" % len(body)
    request = Request(method="POST", arriving=body + b"more", CONTENT_LENGTH=length)
    assert served(application, request).body == body


def test_body_that_broke_off_is_never_whole() -> None:
    """Each further read is an error too, and mod_python is not asked again: it would end the worker."""
    found = []

    def application(environ: dict[str, Any], start: Any) -> list[bytes]:
        given = environ["wsgi.input"]
        for read in (given.readline, given.read, given.readline, given.readlines):
            with pytest.raises(OSError, match="the rest of the request's body did not come"):
                read()
            found.append(read)
        start("200 OK", TEXT)
        return []

    served(application, Request(arriving=b"line\nno", CONTENT_LENGTH=b"100000"))
    assert len(found) == 4


def test_wsgiref_finds_nothing_to_complain_of() -> None:
    """Of the environment, the calls, and the order in which they come."""

    def application(environ: dict[str, Any], start: Any) -> list[bytes]:
        body = environ["wsgi.input"].read(3)
        start("200 OK", TEXT)(b"written ")
        return [body]

    names: dict[str, bytes] = {"SERVER_NAME": b"web1", "SERVER_PORT": b"8080", "QUERY_STRING": b""}
    for method in ("GET", "POST", "HEAD"):
        request = Request(method=method, arriving=b"abc", CONTENT_LENGTH=b"3", **names)
        served(validator(application), request)
        assert request.body == (b"" if method == "HEAD" else b"written abc")
