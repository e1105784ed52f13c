"""What visitors get of applications that use WSGI in every way that PEP 3333 allows, or wrongly."""

from __future__ import annotations

import hashlib
import subprocess

from tests.look import assert_sound, look
from tests.operator import Operator, wait_until
from tests.visitor import Door

TEXT = "text/plain"


def assert_wsgi_is_kept(operator: Operator) -> None:
    """Answers are whole or cut, with one status and each header once; no worker has ended meanwhile."""
    door = operator.door
    hosts = [host.name for host in operator.cluster().tier("web")]
    workers = {name: _workers(operator, name) for name in hosts}
    since = {name: operator.ask(name, "date +%s") for name in hosts}
    _assert_answers(door)
    _assert_bodies(door)
    _assert_failures(door)
    _assert_pages(door)

    def said() -> str:
        command = "journalctl -t apache2 -o cat --since @"
        return "\n".join(operator.ask(name, command + since[name]) for name in hosts)

    # 20,000 bytes of 50,000: more than HAProxy waits for before it asks a node.
    head = f"POST /wsgi/cut_body HTTP/1.1\r\nHost: {door.domain}\r\nContent-Length: 50000\r\n\r\n"
    with door.connect() as connection:
        connection.sendall(head.encode() + b"line\n" * 4000)
        wait_until("a body is read", lambda: "cut body begins" in said(), 20)
    with door.connect() as connection:
        connection.sendall(f"GET /wsgi/Endless HTTP/1.1\r\nHost: {door.domain}\r\n\r\n".encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 200 ")
    wait_until(
        "the answer that nobody waits for is closed", lambda: "endless: closed" in said(), 20
    )
    wait_until("the half body is noticed", lambda: "cut body: " in said(), 20)
    assert "cut body: OSError OSError OSError OSError" in said()
    # Once each, with its traceback, and neither for a visitor who went away.
    log = said().splitlines()
    assert log.count("RuntimeError: broken off, on purpose") == 3
    assert log.count("RuntimeError: failed at once, on purpose") == 1
    assert log.count("ValueError: too late, on purpose") == 1
    assert log.count("RuntimeError: stream broken, on purpose") == 1
    assert log.count("RuntimeError: page failed, on purpose") == 1
    assert "exit signal" not in said()
    assert "Write failed" not in said()
    assert "PythonHandler" not in said(), "an error of the handler's own"
    assert workers == {name: _workers(operator, name) for name in hosts}


def _assert_answers(door: Door) -> None:
    for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
        answer = door.ask("/wsgi/code?201+Made", method, b"" if method[0] == "P" else None)
        assert_sound(answer, f"{method} 201", TEXT, 201)
        assert answer.body == b"body"
    for path, kind in (("code?200+OK", TEXT), ("code?304+Not", ""), ("code?204+No", "")):
        for method in ("GET", "HEAD"):
            answer = door.ask(f"/wsgi/{path}", method)
            assert_sound(answer, f"{method} {path}", kind, int(path[5:8]))
            assert answer.body == (b"body" if method == "GET" and path[5:8] == "200" else b"")
            assert answer["etag"] == '"1"'
            assert answer["content-length"] in ("", "0" if path[5:8] == "204" else ""), path
    nothing = door.ask("/wsgi/nothing")
    assert_sound(nothing, "nothing", TEXT)
    assert (nothing.body, nothing["content-length"]) == (b"", "0")
    assert door.ask("/wsgi/written").text == "one two three four"
    late = door.ask("/wsgi/started_late")
    assert (late.text, late.cookies) == ("late", ["c0=0", "c1=1", "c2=2"])
    hops = door.ask("/wsgi/hops")
    assert_sound(hops, "hops", TEXT)
    assert (hops.text, hops["keep-alive"], hops["connection"]) == ("hops", "", "close")
    file = door.ask("/wsgi/file")
    assert_sound(file, "file", "application/octet-stream")
    assert file.body == b"0123456789" * 100_000
    head = door.ask("/wsgi/file", "HEAD")
    assert (head.body, head["content-length"]) == (b"", "1000000")


def _assert_pages(door: Door) -> None:
    """Django's own ways to answer."""
    stream = look(door, "/odd/page_stream/", "text/event-stream")
    assert (stream.text, stream["content-length"]) == ("data: 1\n\ndata: 2\n\n", "")
    assert door.ask("/odd/page_stream/?fail=1").status in (0, 502)
    file = door.ask("/odd/page_file/")
    assert (file.status, file["content-type"]) == (200, "application/gzip")
    assert (file["content-encoding"], file["content-language"]) == ("identity", "fr")
    assert (len(file.body), file["content-length"]) == (300_000, "300000")
    failed = look(door, "/odd/page_fails/", status=500)
    assert "</html>" in failed.text
    assert failed["server"] == "Apache"
    front = look(door, "/")
    for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
        refused = door.ask("/", method, b"" if method[0] == "P" else None)
        status = {"OPTIONS": 200, "POST": 403}.get(method, 405)
        assert refused.status in (status, 403), f"{method}: {refused}"
    assert look(door, "/", headers={"Range": "bytes=0-9"}).body == front.body


def _assert_bodies(door: Door) -> None:
    large = b"".join(hashlib.sha256(b"%d" % n).digest() for n in range(10_000))
    for body in (b"", b"\n", b"a\nb\n\nccc", large):
        for how in ("read", "more", "all", "sizes", "lines", "iter"):
            answer = door.ask(f"/wsgi/echo?{how}", "POST", body)
            assert answer.body == body + b"|", f"{how} of {len(body)} bytes: {answer.text[:500]}"
    for length in ("99999999999999999999", "9" * 5000, "1_0", "+1"):
        answer = door.ask("/wsgi/echo?read", "POST", b"x", {"Content-Length": length})
        assert answer.status in (400, 413), f"{length}: {answer.status} {answer.error}"


def _assert_failures(door: Door) -> None:
    for path in ("broken", "broken?length=200000", "short?length=200000", "nothing?length=5"):
        cut = door.ask(f"/wsgi/{path}")
        assert (cut.status, "IncompleteRead" in cut.error) == (0, True), f"{path}: {cut}"
    cut = door.ask("/wsgi/too_late")
    assert cut.status in (0, 502), cut
    # An HTTP/2 stream that ends before its promised length is an error to whoever reads it.
    # Without a length HAProxy 2.6 ends it well, whatever it got from the node.
    for path in ("broken?length=200000", "short?length=200000"):
        assert ask_by_http2(door, f"/wsgi/{path}") == (92, "2 200"), path

    failed = door.ask("/wsgi/fails")
    assert (failed.status, failed["x-wrong"], "</html>" in failed.text) == (500, "", True)
    replaced = door.ask("/wsgi/replaced")
    assert_sound(replaced, "replaced", TEXT, 503)
    assert (replaced.text, replaced["x-right"], replaced["x-wrong"]) == ("once", "yes", "")
    assert replaced.cookies == []
    short = door.ask("/wsgi/short?length=50000")
    assert (short.status, len(short.body)) == (200, 50_000)


def ask_by_http2(door: Door, path: str) -> tuple[int, str]:
    """Offer HTTP/2; return curl's exit status, and by which version with which status it was answered."""
    where = f"{door.domain}:{door.port or 443}"
    by_2 = ["curl", "-sk", "--http2", "-o", "/dev/null", "-w", "%{http_version} %{http_code}"]
    by_2 += ["--resolve", f"{where}:{door.address}", f"https://{where}{path}"]
    done = subprocess.run(by_2, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout


def _workers(operator: Operator, name: str) -> list[str]:
    """Return the process numbers of Apache's workers."""
    return sorted(operator.ask(name, "ls /run/tierstack/workers | grep warm").split())
