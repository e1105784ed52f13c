"""An editor of the example site: logs in to the admin, and adds articles with pictures."""

from __future__ import annotations

import itertools
import struct
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from tests.browser import Browser
from tests.operator import Operator
from tests.visitor import Answer, steady_visitor, steady_writer

#: Of every editor.
PASSWORD = "a-long-enough-passphrase"


def log_in(operator: Operator, editor: str = "editor") -> Browser:
    """Make an editor of this name and return their browser, logged in."""
    operator.ask(
        "web1",
        f"DJANGO_SUPERUSER_PASSWORD={PASSWORD} tierstack-manage example createsuperuser"
        f" --noinput --username {editor} --email {editor}@example.test",
    )
    browser = Browser(operator.door)
    browser.log_in(editor, PASSWORD)
    return browser


def add_article(editor: Browser, picture: str, content: bytes | None = None) -> Answer:
    """Add an article with a picture in the admin, a red dot or this; return what the admin answers."""
    return editor.post(
        "/admin/articles/article/add/",
        {
            "title": picture,
            "slug": _slug(picture),
            "body": "With a picture.",
            "published_0": "2020-01-01",
            "published_1": "12:00:00",
        },
        {"image": (picture, content or PICTURE)},
    )


def upload(
    operator: Operator, editor: Browser, picture: str, server: str = "lighttpd"
) -> tuple[str, Answer]:
    """
    Add an article with a picture of this name, which must be served by a web server of that name.

    Returns:
        The picture's URL path, and the web server's answer.
    """
    saved = add_article(editor, picture)
    assert saved.status == 302, saved.text[:2000]
    url = url_of(editor.get(article(picture)).text)
    served = operator.door.ask(url)
    assert (served.status, served["content-type"]) == (200, "image/png"), served.text[:2000]
    assert served.body == PICTURE
    assert server in served["server"]
    return url, served


def article(picture: str) -> str:
    """Return the page of the article that was added with a picture of this name."""
    return f"/articles/{_slug(picture)}/"


def url_of(page: str, media_url: str = "/media/") -> str:
    """Return the URL path of the picture in an article."""
    return media_url + page.partition(f'src="{media_url}')[2].partition('"')[0]


def _slug(picture: str) -> str:
    return f"upload-{zlib.crc32(picture.encode())}"


def dot(colour: int) -> bytes:
    """Return a picture of one dot in a colour of its own, 0 to 16,777,215."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\x00" + colour.to_bytes(3))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


#: A valid picture of one red dot.
PICTURE = dot(0xFF0000)


class Uploaded:
    """What a steady uploader has sent: slugs that the admin has acknowledged, and failures."""

    def __init__(self) -> None:
        self.acknowledged: list[str] = []
        self.failed: list[str] = []


@contextmanager
def steady_uploader(editor: Browser, name: str) -> Iterator[Uploaded]:
    """Add articles with pictures, one after the other, until the block ends."""
    uploaded = Uploaded()
    stop = threading.Event()

    def work() -> None:
        for number in itertools.count():
            if stop.wait(0.1):
                return
            picture = f"{name}-{number}.png"
            try:
                answer = add_article(editor, picture)
            except AssertionError as error:  # The form itself did not come.
                uploaded.failed.append(f"{picture}: {error}")
                continue
            if answer.status == 302:
                uploaded.acknowledged.append(picture)
            else:
                uploaded.failed.append(f"{picture}: {answer.status} {answer.error}")

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    try:
        yield uploaded
    finally:
        stop.set()
        worker.join(timeout=60)


@contextmanager
def at_work(
    operator: Operator, editor: Browser, url: str, name: str, patience_s: float = 10.0
) -> Iterator[None]:
    """
    Visitors, writers and uploaders are at work; none of them fails, and nothing is lost.

    Args:
        operator: whose site it is.
        editor: who uploads.
        url: an uploaded file, which is read all the while.
        name: what the pictures that are uploaded are called, before their number.
        patience_s: how long all of them but the readers of that file wait for an answer, in seconds.
    """
    door = replace(operator.door, patience_s=patience_s)
    patient = Browser(door)
    patient.cookies = dict(editor.cookies)
    with (
        steady_visitor(operator.door, url) as files,
        steady_visitor(door, "/status.json", per_second=5) as pages,
        steady_writer(door) as written,
        steady_uploader(patient, name) as uploaded,
    ):
        yield
    assert files.requests > 50
    assert files.failed == [], files.failed
    assert pages.failed == [], pages.failed
    assert written.failed == [], written.failed
    assert uploaded.failed == [], uploaded.failed
    assert len(uploaded.acknowledged) > 5
    for picture in uploaded.acknowledged:
        served = operator.door.ask(f"/media/articles/{picture.replace(' ', '_')}")
        assert served.status == 200, picture
