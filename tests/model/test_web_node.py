"""What a web node looks at before it goes into rotation with a release."""

from __future__ import annotations

import os
import pwd
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tierstack.operations.config import template

#: Path to status and where it leads.
Pages = dict[str, tuple[int, str]]


@contextmanager
def answering(pages: Pages) -> Iterator[dict[str, Any]]:
    """Serve pages on loopback; yields the settings by which a node asks for them."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, location = pages.get(self.path, (404, ""))
            self.send_response(status)
            if location:
                self.send_header("Location", location)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield {
                "address": "127.0.0.1",
                "port": server.server_address[1],
                "timeout_s": 5,
                "alone": False,
            }
        finally:
            server.shutdown()
            thread.join()


def program() -> dict[str, Any]:
    """Return what `web-node` defines."""
    node: dict[str, Any] = {"__name__": "web-node"}
    exec(template("web/usr/local/lib/tierstack/web-node.j2"), node)
    return node


@pytest.mark.parametrize(
    ("pages", "said"),
    [
        ({"/": (200, "")}, ""),
        ({}, ""),
        ({"/": (500, "")}, "shop: https://shop.test/ answers 500; "),
        (
            {"/": (302, "/login/?next=/"), "/login/?next=/": (500, "")},
            "shop: https://shop.test/login/?next=/, to which https://shop.test/ leads, answers 500; ",
        ),
        (
            {"/": (301, "https://shop.test/en/"), "/en/": (302, "home"), "/en/home": (503, "")},
            "shop: https://shop.test/en/home, to which https://shop.test/ leads, answers 503; ",
        ),
        # Another site's pages are not this node's, and a circle is no error of the server's.
        ({"/": (302, "https://id.test/login")}, ""),
        ({"/": (302, "/")}, ""),
        # What no browser could follow is no reason to take a node out, and what one can is followed.
        ({"/": (302, "https://[shop.test/")}, ""),
        (
            {"/": (302, "/caf\xc3\xa9 1/"), "/caf%C3%A9%201/": (500, "")},
            "shop: https://shop.test/caf%C3%A9%201/, to which https://shop.test/ leads, answers 500; ",
        ),
    ],
)
def test_page_and_what_it_leads_to_are_looked_at(pages: Pages, said: str) -> None:
    """A front page that only leads to a log-in says nothing of the pages."""
    node = program()
    site = {"name": "shop", "domain": "shop.test"}
    with answering(pages) as settings:
        assert node["page_problem"](settings, site, "/") == said


def test_what_a_site_leaves_among_its_notes_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The directory is the site's: it may hold links in a circle, and be filled all the time."""
    node = program()
    notes, doors = tmp_path / "workers", (str(tmp_path / "door"), str(tmp_path / "room"))
    node |= {"WARM": str(notes), "DRAIN": str(tmp_path / "drain"), "DOORS": doors}
    notes.mkdir()
    (notes / "told.10.0.0.1").symlink_to("told.10.0.0.1")
    (notes / "asked.10.0.0.1").touch()
    assert not node["all_told"]({"drain_s": 2.5}, time.time() + 60)
    # Whatever cannot be removed, since somebody goes on writing there.
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)
    assert node["starting"]({"account": pwd.getpwuid(os.getuid()).pw_name}) == 0
    assert list(notes.iterdir()) == []


def test_node_has_joined_when_balancers_have_asked_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second 200 makes a balancer send visitors; who knows no balancer does not wait for long."""
    node = program()
    node |= {"WARM": str(tmp_path), "serve": lambda settings: 0, "ARRIVES_S": 0}
    asked, naps = tmp_path / "asked.10.0.0.1", []
    (tmp_path / "told.10.0.0.1").touch()

    def sleep(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) in (10, 20):
            moment = time.time() + len(naps)
            asked.touch()
            os.utime(asked, (moment, moment))

    monkeypatch.setattr(time, "sleep", sleep)
    assert node["join"]({"drain_s": 600}) == 0
    assert len(naps) == 21
    for note in tmp_path.iterdir():
        note.unlink()
    node["ASKS_S"] = 0
    assert node["join"]({"drain_s": 600}) == 0
    node["serve"] = lambda settings: 1
    assert node["join"]({"drain_s": 600}) == 1
