"""A site on its node: it is loaded, called as WSGI has it, and its health is answered."""

from __future__ import annotations

import fcntl
import os
import site
import sys
import time
import types
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from roles.web import settings
from tests.model.conftest import Home
from tests.model.mod_python_request import Request
from tierstack.agents import mod_python, node
from tierstack.model.release import Release
from tierstack.operations.config import template


class Loaded:
    """The generated module, loaded around a site that notes what it was asked."""

    def __init__(self, module: dict[str, Any], asked: list[dict[str, Any]]) -> None:
        self.module, self.asked = module, asked

    def ask(self, request: Request) -> tuple[int, bytes]:
        """Return status and body of the answer."""
        assert self.module["handler"](request) == 0
        assert request.status == int(request.status_line[:3])
        return request.status, request.body


@pytest.fixture
def loaded(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Loaded:
    """The module of web1, with its files under a temporary directory."""
    drained = [(str(tmp_path / word), word) for _, word in settings.DRAINED_BY]
    monkeypatch.setattr(settings, "DRAINED_BY", drained)
    monkeypatch.setattr(settings, "WORKERS_DIRECTORY", str(tmp_path))
    for name in ("DOOR", "ROOM"):
        monkeypatch.setattr(settings, name, str(tmp_path / name))
        (tmp_path / name).touch()
    asked: list[dict[str, Any]] = []

    def application(environ: dict[str, Any], start: Any) -> list[bytes]:
        asked.append(environ)
        start("404 Not Found", [("Content-Type", "text/plain")])
        return [b"none"]

    stand_ins: dict[str, dict[str, Any]] = {
        "django": {"setup": lambda: None},
        "django.core.servers.basehttp": {"get_internal_wsgi_application": lambda: application},
        "django.template": {"engines": types.SimpleNamespace(all=list)},
        "django.urls": {"get_resolver": lambda: types.SimpleNamespace(url_patterns=[])},
        "django.utils.log": {"RequireDebugTrue": type("RequireDebugTrue", (), {})},
    }
    for name, values in stand_ins.items():
        module = types.ModuleType(name)
        module.__dict__.update(values)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(os, "chdir", lambda _path: None)
    monkeypatch.setattr(site, "addsitedir", lambda _path: None)
    monkeypatch.setattr(sys, "executable", sys.executable)
    monkeypatch.setenv("DJANGO_SETTINGS_MODULE", "")
    cluster = home.load()
    monkeypatch.setitem(sys.modules, "tierstack_node", node)
    monkeypatch.setitem(sys.modules, "tierstack_mod_python", mod_python)
    text = settings.wsgi_module(
        cluster, cluster.tier("web")[0], cluster.sites[0], Release("0123456789ab", "/release")
    )
    found: dict[str, Any] = {"__name__": "tierstack_wsgi"}
    exec(text, found)
    return Loaded(found, asked)


def _way_in(loaded: Loaded, peer: str, **headers: str) -> dict[str, str]:
    """Return what the site is told of a visitor whom somebody at this address brings."""
    variables: dict[str, Any] = {k: v.encode("latin-1") for k, v in headers.items()}
    loaded.ask(Request(REMOTE_ADDR=peer.encode(), **variables))
    told = ("REMOTE_ADDR", "REMOTE_PORT", "HTTP_X_FORWARDED", "HTTP_TRUE", "HTTP_FORWARDED")
    return {name: value for name, value in loaded.asked[-1].items() if name.startswith(told)}


@pytest.mark.parametrize(
    ("said", "visitor"),
    [
        ("203.0.113.5", "203.0.113.5"),
        ("2001:db8::5", "2001:db8::5"),
        ("198.51.100.1, 203.0.113.5", "203.0.113.5"),  # a balancer before it was deployed
    ],
)
def test_balancer_says_who_the_visitor_is(loaded: Loaded, said: str, visitor: str) -> None:
    """The site sees one address, the visitor's, and how they came; not the balancer's own port."""
    assert _way_in(
        loaded,
        "10.0.0.10",
        REMOTE_PORT="4711",
        HTTP_X_FORWARDED_FOR=said,
        HTTP_X_FORWARDED_PROTO="https",
    ) == {
        "REMOTE_ADDR": visitor,
        "HTTP_X_FORWARDED_FOR": visitor,
        "HTTP_X_FORWARDED_PROTO": "https",
    }


@pytest.mark.parametrize("said", ["", "unknown", "203.0.113.5:80", "203.0.113.5,", "\xff"])
def test_what_is_no_address_names_no_visitor(loaded: Loaded, said: str) -> None:
    """A balancer never says it; who asks stays who it is."""
    assert _way_in(loaded, "10.0.0.10", HTTP_X_FORWARDED_FOR=said)["REMOTE_ADDR"] == "10.0.0.10"


def test_nobody_else_says_who_they_are(loaded: Loaded) -> None:
    """Another host, whatever it says: its own address, and no more."""
    said = {
        "HTTP_X_FORWARDED_FOR": "203.0.113.5",
        "HTTP_X_FORWARDED_PROTO": "https",
        "HTTP_X_FORWARDED_HOST": "evil.example",
        "HTTP_FORWARDED": "for=203.0.113.5",
        "HTTP_TRUE_CLIENT_IP": "203.0.113.5",
    }
    assert _way_in(loaded, "10.0.0.99", **said) == {"REMOTE_ADDR": "10.0.0.99"}


def test_loading_makes_the_worker_warm(loaded: Loaded, tmp_path: Path) -> None:
    """Who starts Apache counts these notes."""
    assert [path.name for path in tmp_path.glob("*.warm")] == [f"{os.getpid()}.warm"]


def test_health_does_not_ask_the_site(loaded: Loaded, tmp_path: Path) -> None:
    """200 while visitors may come; 404 and the reason while any file keeps them away."""
    whoami = f" node=web1 pid={os.getpid()} release=0123456789ab\n"
    assert loaded.ask(Request(b"/-/health")) == (200, f"ok{whoami}".encode())
    for word in ("draining", "deploying", "held"):  # the later outweighs the earlier
        (tmp_path / word).touch()
        assert loaded.ask(Request(b"/-/health")) == (404, f"{word}{whoami}".encode())
    assert loaded.asked == []


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        (b"/%2D/health", {}),
        (b"/-/%68ealth", {}),
        (b"//-/health", {}),
        (b"/-//health", {}),
        (b"/./-/health", {}),
        (b"/x/../-/health", {}),
        (b"/-/health?", {}),
        (b"/-/health;x", {}),
        (b"http://10.0.0.1/-/health", {}),
        (b"/-/health", {"HTTP_X_FORWARDED_FOR": b"203.0.113.9"}),
        (b"/-/health", {"HTTP_X_FORWARDED_PROTO": b"https"}),
    ],
)
def test_health_is_not_for_visitors(
    loaded: Loaded, tmp_path: Path, path: bytes, headers: dict[str, Any]
) -> None:
    """Another spelling, or a request that a balancer passes on: the site's own 404, and no note."""
    request = Request(b"/-/health", unparsed_uri=path, REMOTE_ADDR=b"10.0.0.1", **headers)
    assert loaded.ask(request) == (404, b"none")
    assert [note.name for note in tmp_path.glob("*.10.0.0.1")] == []


def test_node_leaves_when_each_balancer_has_been_told(loaded: Loaded, tmp_path: Path) -> None:
    """Whoever got a 200 a moment ago must have got a 404, and had the time to go by it."""
    web_node: dict[str, Any] = {"__name__": "web_node"}
    exec(template("web/usr/local/lib/tierstack/web-node.j2"), web_node)
    web_node["WARM"] = str(tmp_path)
    now = time.time()

    def told(after_s: float) -> bool:
        web_node["time"] = types.SimpleNamespace(time=lambda: now + after_s)
        answer: bool = web_node["all_told"]({"drain_s": 2.5}, now - 1)
        return answer

    def ask(balancer: str) -> None:
        loaded.ask(Request(b"/-/health", REMOTE_ADDR=balancer.encode()))

    assert not told(9), "nobody has asked: nobody is known"
    ask("10.0.0.1")
    ask("10.0.0.2")
    (tmp_path / "draining").touch()
    ask("10.0.0.1")
    assert not told(9), "10.0.0.2 still sends visitors"
    ask("10.0.0.2")
    assert not told(0.2), "the answer is on its way"
    assert told(1)
    since = (tmp_path / "told.10.0.0.1").stat().st_mtime_ns
    ask("10.0.0.1")
    assert (tmp_path / "told.10.0.0.1").stat().st_mtime_ns == since, "the first one counts"
    (tmp_path / "draining").unlink()
    ask("10.0.0.1")
    assert not told(9), "visitors come from 10.0.0.1 again"


def test_status_of_the_site_reaches_apache(loaded: Loaded) -> None:
    """mod_python.wsgi sets the status line only, and Apache sends 200 then."""
    assert loaded.ask(Request()) == (404, b"none")


def test_any_bytes_become_latin_1(loaded: Loaded) -> None:
    """PEP 3333: bytes come as Latin-1, whether they are UTF-8 or nothing at all."""
    loaded.ask(
        Request("/déjà/日本//x".encode(), HTTP_A="é".encode(), HTTP_B=b"\xe9\xff", NONE=None)
    )
    environ = loaded.asked[0]
    assert environ["PATH_INFO"].encode("latin-1").decode() == "/déjà/日本//x"
    assert environ["HTTP_A"].encode("latin-1").decode() == "é"
    assert environ["HTTP_B"].encode("latin-1") == b"\xe9\xff"
    assert environ["SCRIPT_NAME"] == ""
    assert "NONE" not in environ
    assert "HTTP_AUTHORIZATION" not in environ
    loaded.ask(Request(b"/\xe9"))
    assert loaded.asked[1]["PATH_INFO"] == "/\xe9"


def test_chunked_body_is_refused(loaded: Loaded) -> None:
    """A clear 411, never a 200 for a body that was not read (mod_wsgi#312)."""
    answer = loaded.ask(Request(HTTP_TRANSFER_ENCODING=b"chunked"))
    assert answer == (411, b"Send this request with a Content-Length.\n")
    assert loaded.asked == []


def test_large_body_is_refused(loaded: Loaded) -> None:
    """A clear 413, before a byte of it is read."""
    answer = loaded.ask(Request(CONTENT_LENGTH=b"104857601"))
    assert answer == (413, b"At most 104857600 bytes are accepted.\n")
    assert loaded.ask(Request(CONTENT_LENGTH=b"104857600"))[0] == 404
    assert loaded.ask(Request(CONTENT_LENGTH=b"9" * 5000))[0] == 413
    for nonsense in (b"+1", b"1_0", b"-1", b"x", "１".encode()):
        assert loaded.ask(Request(CONTENT_LENGTH=nonsense))[0] == 400, nonsense


def test_requests_wait_while_the_door_is_shut(loaded: Loaded, tmp_path: Path) -> None:
    """As `web-pause` shuts it; health is answered all the same."""
    # A process, as Apache's workers are: a greenlet that waits for a lock would hold up all others.
    waiting = get_context("fork").Process(target=loaded.ask, args=(Request(),))
    with (tmp_path / "DOOR").open() as door:
        fcntl.flock(door, fcntl.LOCK_EX)
        assert loaded.ask(Request(b"/-/health"))[0] == 200
        waiting.start()
        waiting.join(0.3)
        assert waiting.is_alive()
        fcntl.flock(door, fcntl.LOCK_UN)
    waiting.join(10)
    assert waiting.exitcode == 0


def test_room_is_empty_once_the_answer_is_sent(
    loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not before its last block: a page may ask the database while it is sent."""
    write, found = Request.write, []

    def look(request: Request, block: bytes) -> None:
        found.append(_is_empty(tmp_path / "ROOM"))
        write(request, block)

    monkeypatch.setattr(Request, "write", look)
    loaded.ask(Request())
    assert set(found) == {False}
    assert _is_empty(tmp_path / "ROOM")


def _is_empty(room: Path) -> bool:
    with room.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True
