"""Everybody who uses a site at once: readers, a writer, an editor who uploads, and who looks at it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.browser import Browser
from tests.uploads import add_article, article, dot, url_of
from tests.visitor import Answer, Door

#: How often each of them does what they do, a second.
_PAGES, _FILES, _ROWS, _UPLOADS = 10, 5, 5, 0.5


@dataclass
class Counted:
    """What one of them has met with since the step began."""

    done: int = 0
    failed: list[str] = field(default_factory=list)
    slowest_s: float = 0.0

    def note(self, answer: Answer, *, good: bool) -> None:
        """Count an answer."""
        self.done += 1
        self.slowest_s = max(self.slowest_s, answer.seconds)
        if not good:
            at = time.strftime("%H:%M:%S")
            self.failed.append(
                f"{at} {answer.status} {answer.error} {answer.text[:80]!r} {answer.seconds:.2f} s"
            )


@dataclass(frozen=True)
class Step:
    """A step of the climb, and what everybody met with meanwhile."""

    name: str
    seconds: float
    pages: Counted
    files: Counted
    rows: Counted
    uploads: Counted

    @property
    def failed(self) -> list[str]:
        """Everything that failed."""
        kinds = ("pages", "files", "rows", "uploads")
        return [f"{kind}: {said}" for kind in kinds for said in getattr(self, kind).failed]


class Traffic:
    """
    Readers of pages and of uploaded files, a writer and an uploader, until they are stopped.

    Args:
        door: the front door; may be led elsewhere meanwhile, as by DNS.
        editor: somebody who is logged in to the admin.
    """

    def __init__(self, door: Door, editor: Browser) -> None:
        self.door = door
        self.editor = editor
        #: Ids of the rows that the site has acknowledged.
        self.rows: set[int] = set()
        #: Numbers of the pictures whose upload the site has acknowledged; each has its own colour.
        self.pictures: set[int] = set()
        #: The pictures that were seen in their article, by URL path.
        self.uploads: dict[str, bytes] = {}
        self.steps: list[Step] = []
        self._counted = {kind: Counted() for kind in ("pages", "files", "rows", "uploads")}
        self._began = time.monotonic()
        self._lock = threading.Lock()
        self._stop = threading.Event()

    def lead_to(self, address: str) -> None:
        """Have everybody come in by another balancer from now on."""
        self.door.address = self.editor.door.address = address

    def end_step(self, name: str) -> Step:
        """Return what everybody has met with since the last step, and begin to count anew."""
        with self._lock:
            now = time.monotonic()
            step = Step(name, now - self._began, **self._counted)
            self._counted = {kind: Counted() for kind in self._counted}
            self._began = now
            self.steps.append(step)
        return step

    @contextmanager
    def running(self) -> Iterator[None]:
        """Let them begin; they have ended when the block has."""
        threads = [
            threading.Thread(target=self._steadily, args=(what, per_second), daemon=True)
            for what, per_second in (
                (self._read_page, _PAGES),
                (self._read_file, _FILES),
                (self._write_row, _ROWS),
                (self._upload, _UPLOADS),
            )
        ]
        self.end_step("before")
        self.steps.clear()
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join(timeout=60)

    def _steadily(self, what: Callable[[int], None], per_second: float) -> None:
        """Do something on a fixed clock: a slow answer does not thin the others out."""
        began, number = time.monotonic(), 0
        started: list[threading.Thread] = []
        while not self._stop.is_set():
            number += 1
            thread = threading.Thread(target=what, args=(number,), daemon=True)
            thread.start()
            started = [*(other for other in started if other.is_alive()), thread]
            self._stop.wait(max(0.0, began + number / per_second - time.monotonic()))
        for thread in started:
            thread.join(timeout=30)

    def _note(self, kind: str, answer: Answer, *, good: bool) -> None:
        with self._lock:
            self._counted[kind].note(answer, good=good)

    def _read_page(self, _number: int) -> None:
        answer = self.door.ask("/status.json")
        self._note("pages", answer, good=answer.status == 200)

    def _read_file(self, number: int) -> None:
        """Read the newest upload, and each of the others in turn."""
        with self._lock:
            urls = list(self.uploads)
        if urls:
            url = urls[-1] if number % 2 else urls[number // 2 % len(urls)]
            answer = self.door.ask(url)
            self._note("files", answer, good=answer.body == self.uploads[url])

    def _write_row(self, _number: int) -> None:
        answer = self.door.ask("/guestbook.json", "POST", b"I was here.", timeout_s=15)
        if answer.status == 201:
            with self._lock:
                self.rows.add(json.loads(answer.body)["id"])
        self._note("rows", answer, good=answer.status == 201)

    def _upload(self, number: int) -> None:
        """Add an article with a picture, then look at it at once."""
        # A browser of its own, since the one before may still be at it.
        editor = Browser(self.door)
        editor.cookies = dict(self.editor.cookies)
        name = f"picture {number}.png"
        try:
            answer = add_article(editor, name, dot(number))
        except AssertionError as error:  # There was no form.
            self._note("uploads", Answer(0, error=str(error)), good=False)
            return
        self._note("uploads", answer, good=answer.status == 302)
        if answer.status != 302:
            return
        with self._lock:
            self.pictures.add(number)
        page = editor.get(article(name))
        self._note("pages", page, good=page.status == 200)
        if page.status == 200:
            url = url_of(page.text)
            seen = self.door.ask(url)
            self._note("files", seen, good=seen.body == dot(number))
            with self._lock:
                self.uploads[url] = dot(number)
