"""
A site on its web node, as a WSGI application that an engine calls; and the health path beside it.

The health path is answered once Django, the site's URLs and its templates are loaded: 200, or 404
while this node is to get no visitors. It touches neither the database nor the site's code.
"""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import logging
import os
import re
import site
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment


@dataclass(frozen=True)
class Settings:
    """
    What a node knows of itself.

    Args:
        node: its name.
        release: the name of the site's release.
        upload_bytes: the largest request body.
        health_path: the path that balancers ask.
        workers_directory: where workers leave notes for `web-node`.
        drained_by: files that keep visitors away, and the word that the health path says then.
        door: each request passes through it; `web-pause` shuts it.
        room: each request is in it until it has its answer; `web-pause` waits until it is empty.
        forwarders: addresses of those who say on whose behalf a request comes.
        forwarded: a regular expression: variables by which nobody else may say it.
        site_packages: of the release's venv.
        python: the venv's.
        project: directory of manage.py.
    """

    node: str
    release: str
    upload_bytes: int
    health_path: str
    workers_directory: str
    drained_by: list[tuple[str, str]]
    door: str
    room: str
    forwarders: list[str]
    forwarded: str
    site_packages: str
    python: str
    project: str


class Node:
    """The site, with what the node itself answers; making it loads the site, as a worker's first act."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._forwarded = re.compile(settings.forwarded)
        try:
            self._site = _load(settings)
        except BaseException:
            self._note(f"{os.getpid()}.failed")
            raise
        self._note(f"{os.getpid()}.warm")

    def __call__(self, environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        """Answer a request; `close` of what is returned ends it."""
        if self._is_asked_by_balancer(environ):
            return self._health(start, environ.get("REMOTE_ADDR", ""))
        self._tell_visitor(environ)
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._inside())
            blocks = self._answer(environ, start)
            if hasattr(blocks, "close"):
                stack.callback(blocks.close)
            return _Held(blocks, stack.pop_all().close)

    def _is_asked_by_balancer(self, environ: WSGIEnvironment) -> bool:
        """
        Return whether a balancer asks by itself, or somebody on this host.

        A balancer tells of each visitor's request how it came. And a path is compared as it was
        sent: `/%2D/health` or `//-/./health` is what nobody but a visitor would write.
        """
        raw = environ.get("REQUEST_URI", environ["PATH_INFO"])
        visitors = any(name.startswith("HTTP_X_FORWARDED_") for name in environ)
        return bool(raw == self._settings.health_path) and not visitors

    def _tell_visitor(self, environ: WSGIEnvironment) -> None:
        """Have REMOTE_ADDR be the visitor's. A balancer says it; what others say is dropped."""
        if environ.get("REMOTE_ADDR") not in self._settings.forwarders:
            for name in [name for name in environ if self._forwarded.fullmatch(name)]:
                del environ[name]
            return
        # Balancers of an older release pass a list on, to which they have added the last one.
        address = environ.get("HTTP_X_FORWARDED_FOR", "").rpartition(",")[2].strip()
        try:
            ipaddress.ip_address(address)
        except ValueError:
            return
        environ["REMOTE_ADDR"] = environ["HTTP_X_FORWARDED_FOR"] = address
        # The port and the name are the balancer's.
        environ.pop("REMOTE_PORT", None)
        environ.pop("REMOTE_HOST", None)

    @contextlib.contextmanager
    def _inside(self) -> Iterator[None]:
        """Be seen by `web-pause` meanwhile; wait while it holds requests back."""
        with contextlib.ExitStack() as held:
            # Without the files there is nobody who could wait for them.
            with contextlib.suppress(FileNotFoundError), Path(self._settings.door).open() as door:
                fcntl.flock(door, fcntl.LOCK_SH)
                fcntl.flock(held.enter_context(Path(self._settings.room).open()), fcntl.LOCK_SH)
            yield

    def _answer(self, environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        # mod_python cannot read a chunked body: the site would take it for an empty one.
        if "HTTP_TRANSFER_ENCODING" in environ:
            return _say(start, "411 Length Required", "Send this request with a Content-Length.")
        length = environ.get("CONTENT_LENGTH") or "0"
        if not (length.isascii() and length.isdigit()):  # int() takes +1 and 1_0 as well.
            return _say(start, "400 Bad Request", "The Content-Length is not a number.")
        most = self._settings.upload_bytes
        if len(length) > 18 or int(length) > most:
            return _say(start, "413 Content Too Large", f"At most {most} bytes are accepted.")
        return self._site(environ, start)

    def _health(self, start: StartResponse, asker: str) -> Iterable[bytes]:
        whoami = f" node={self._settings.node} pid={os.getpid()} release={self._settings.release}"
        # Noted first: who has a 404 in hand sends nobody any more, and `web-node` waits for no more.
        for path, word in self._settings.drained_by:
            if Path(path).exists():
                self._note_asker(asker, told=True)
                return _say(start, "404 Not Found", word + whoami)
        self._note_asker(asker, told=False)
        return _say(start, "200 OK", "ok" + whoami)

    def _note_asker(self, asker: str, told: bool) -> None:
        """Note since when this balancer has got a 404, or that it has just got a 200."""
        since = Path(self._settings.workers_directory, f"told.{asker}")
        with contextlib.suppress(OSError):  # The answer is what matters.
            if not told:
                self._note(f"asked.{asker}")
                since.unlink()
            elif not since.exists():
                self._note(f"told.{asker}")

    def _note(self, name: str) -> None:
        """Tell `web-node`: this worker is warm, or it failed; or which balancer has asked."""
        Path(self._settings.workers_directory, name).write_bytes(b"")


class _Held:
    """The blocks of an answer; the node is held until it is closed."""

    def __init__(self, blocks: Iterable[bytes], close: Callable[[], None]) -> None:
        self._blocks = blocks
        self.close = close

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._blocks)


def _say(start: StartResponse, status: str, text: str) -> Iterable[bytes]:
    body = (text + "\n").encode()
    start(
        status,
        [
            ("Content-Type", "text/plain; charset=utf-8"),
            ("Content-Length", str(len(body))),
            ("Cache-Control", "no-store"),
        ],
    )
    return [body]


def _load(settings: Settings) -> WSGIApplication:
    # As in the venv: its .pth files count, and programs started from here are its own.
    site.addsitedir(settings.site_packages)
    sys.executable = settings.python
    if not getattr(sys, "argv", None):
        sys.argv = ["mod_python"]
    os.chdir(settings.project)
    os.environ["DJANGO_SETTINGS_MODULE"] = "tierstack_settings"

    import django

    django.setup()
    from django.core.servers.basehttp import get_internal_wsgi_application
    from django.template import engines
    from django.urls import get_resolver

    # The site's own WSGI_APPLICATION where its settings name one.
    loaded: WSGIApplication = get_internal_wsgi_application()
    get_resolver().url_patterns  # noqa: B018 -- imports the views
    engines.all()
    _log_errors()
    return loaded


def _log_errors() -> None:
    """
    Make errors of the site reach the engine's error log, where its own LOGGING writes them nowhere.

    Django's default mails them to ADMINS and prints them with DEBUG only.
    """
    from django.utils.log import RequireDebugTrue

    logger: logging.Logger | None = logging.getLogger("django.request")
    while logger:
        for handler in logger.handlers:
            silent = any(isinstance(f, RequireDebugTrue) for f in handler.filters)
            if isinstance(handler, logging.StreamHandler) and not silent:
                return
        logger = logger.parent if logger.propagate else None
    handler = logging.StreamHandler()
    handler.setLevel(logging.ERROR)
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    logging.getLogger("django.request").addHandler(handler)
