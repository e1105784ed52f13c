"""
A WSGI application behind mod_python, as PEP 3333 has it.

This stands in the place of mod_python.wsgi 3.5.0, which cannot be used as it is. Under Apache
2.4.71 each of its answers has the status 200; a path with letters beyond Latin-1 is an error to it;
one byte in a header or a path that is not UTF-8 ends the worker with a segmentation fault; and so
does a read after a body that broke off while a line of it was read.
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
import sys
from collections.abc import Callable
from functools import partial
from typing import Any
from wsgiref.types import WSGIApplication, WSGIEnvironment
from wsgiref.util import FileWrapper, is_hop_by_hop

_OK, _SERVER_ERROR = 0, 500  # of mod_python's apache module
_CLOSE = 1  # AP_CONN_CLOSE
_HTTP_1_1 = 1001

_STATUS = re.compile(r"[2-5][0-9][0-9](?: |$)")
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


def serve(request: Any, application: WSGIApplication) -> int:
    """
    Answer one of mod_python's requests.

    Returns:
        What mod_python's handler returns: 500 where Apache is to say that something went wrong, and
        0 otherwise.
    """
    environ = _environ(request)
    body: io.BufferedReader = environ["wsgi.input"]
    answer = _Answer(request)
    try:
        _send(application, environ, answer)
    except _VisitorGoneError:
        pass
    except (Exception, SystemExit):
        # Where the errors of the site's views go as well.
        logging.getLogger("django.request").exception(
            "No whole answer: %s %s", environ["REQUEST_METHOD"], environ["PATH_INFO"]
        )
        return answer.give_up()
    finally:
        # mod_python's request is freed memory from now on: what the site may have kept must not ask
        # it for anything.
        answer.end()
        body.close()
    return _OK


def _send(application: WSGIApplication, environ: WSGIEnvironment, answer: _Answer) -> None:
    blocks = application(environ, answer.start)
    try:
        if not answer.has_no_body:
            for block in blocks:
                answer.write(block)
                if answer.has_no_body:  # A generator may start its answer with its first block.
                    break
        answer.finish()
    finally:
        if hasattr(blocks, "close"):
            blocks.close()


class _VisitorGoneError(OSError):
    """Nobody waits for the rest of the answer; that is no error of the site's."""


class _Answer:
    """What goes out: nothing until the first block of the body, so that an error can still be said."""

    def __init__(self, request: Any) -> None:
        self._request = request
        self._status = ""
        self._headers: list[tuple[bytes, bytes]] = []
        self._type: bytes | None = None
        # How much of the body is still to come, in bytes; None where the site has not said.
        self._missing: int | None = None
        self._chunked = False
        self._head_is_sent = False
        self._is_whole = False

    @property
    def has_no_body(self) -> bool:
        """Whether the answer has started, and is one that has no body."""
        return bool(self._status) and (
            self._request.method == "HEAD" or self._status[:3] in ("204", "304")
        )

    def start(
        self, status: str, headers: list[tuple[str, str]], exc_info: Any = None
    ) -> Callable[[bytes], None]:
        """WSGI's start_response."""
        if exc_info:
            try:
                if self._head_is_sent:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None  # Else the traceback would hold this frame, and this frame it.
        elif self._status:
            raise AssertionError("start_response was called a second time, without exc_info")
        if not _STATUS.match(status) or _CONTROL.search(status):
            raise ValueError(f"start_response: not a status: {status!r}")
        self._type, self._missing, self._headers = None, None, []
        for name, value in headers:
            self._take(name, value)
        self._status = status
        return self.write

    def _take(self, name: str, value: str) -> None:
        if not _NAME.fullmatch(name) or _CONTROL.search(value):
            raise ValueError(f"start_response: not a header: {name!r}: {value!r}")
        # Bytes, as mod_python knows no subclasses of str, such as Django's SafeString.
        pair = name.encode("latin-1"), value.encode("latin-1")
        if name.lower() == "content-type":
            self._type = pair[1]
        elif name.lower() == "content-length":
            if not (value.isascii() and value.isdigit()):
                raise ValueError(f"start_response: not a Content-Length: {value!r}")
            self._missing = int(value)
        elif not is_hop_by_hop(name):  # The connection is Apache's own matter.
            self._headers.append(pair)

    def write(self, block: bytes) -> None:
        """Send a block of the body at once: WSGI's write, and what is done with each block."""
        if self._request is None:
            raise ValueError("the request that this belongs to has ended")
        if not isinstance(block, bytes | bytearray | memoryview):
            raise TypeError(f"the body's blocks are bytes, not {type(block).__name__}")
        if not self._status:
            raise AssertionError("the body came before start_response was called")
        if not block or self.has_no_body:
            return
        block = bytes(block)
        self._send_head()
        if self._missing is None:
            self._write(b"%x\r\n%b\r\n" % (len(block), block) if self._chunked else block)
            return
        room, self._missing = self._missing, max(0, self._missing - len(block))
        self._write(block[:room])
        if len(block) > room:
            self._is_whole = True
            raise ValueError("the answer is longer than its Content-Length")

    def finish(self) -> None:
        """Send what is to be sent after the last block."""
        if not self._status:
            raise AssertionError("start_response was not called")
        if not self.has_no_body:
            if self._chunked:
                self._write(b"0\r\n\r\n")
            elif not self._head_is_sent:
                # Apache would say 0 where the site has promised more.
                self._missing = self._missing or 0
                self._send_head()
                self._flush()
            if self._missing:
                raise ValueError(f"the answer is {self._missing} bytes shorter than it said")
        else:
            self._send_head()
        self._is_whole = True

    def give_up(self) -> int:
        """
        End an answer that failed: as an error if nothing of it is sent, else by cutting it off.

        Nobody takes the latter for whole: its last chunk, or some of the bytes that it promised,
        are missing when the connection ends. Apache's page for an error would stand in its tail.
        """
        if not self._head_is_sent:
            return _SERVER_ERROR
        if not self._is_whole:
            self._request.connection.keepalive = _CLOSE
            if self._chunked:
                # No chunk begins so: a balancer that has sent nothing on yet says 502 instead.
                with contextlib.suppress(_VisitorGoneError):
                    self._write(b"!\r\n")
        return _OK

    def end(self) -> None:
        """Send nothing from now on."""
        self._request = None

    def _send_head(self) -> None:
        """Give Apache status and headers; it sends them before what is written next."""
        if self._head_is_sent:
            return
        request = self._request
        code = self._status[:3]
        request.status = int(code)
        request.status_line = self._status.encode("latin-1")
        # A type that Apache has in mind of its own would win over a header.
        if self._type is not None:
            request.content_type = self._type
        for name, value in self._headers:
            request.headers_out.add(name, value)
        if code in ("204", "304"):
            pass
        elif self._missing is not None:
            request.headers_out.add(b"Content-Length", b"%d" % self._missing)
        elif request.method != "HEAD" and request.proto_num >= _HTTP_1_1:
            # By ourselves: Apache ends a body in chunks well, whatever has become of it.
            request.headers_out.add(b"Transfer-Encoding", b"chunked")
            self._chunked = True
        self._head_is_sent = True

    def _write(self, data: bytes) -> None:
        self._ask_apache(lambda: self._request.write(data))

    def _flush(self) -> None:
        self._ask_apache(self._request.flush)

    def _ask_apache(self, act: Callable[[], object]) -> None:
        try:
            act()
        except OSError as error:
            if not str(error).startswith(("Write failed", "Flush failed")):
                raise
            raise _VisitorGoneError(str(error)) from error


class _Body(io.RawIOBase):
    """
    A request's body.

    Only mod_python's read() is called, and never for more than there is: after readline() it loses
    what that had read ahead, and after a broken readline() it reads freed memory.
    """

    def __init__(self, request: Any, length: int) -> None:
        self._request = request
        self._left = length
        self._is_broken = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        wanted = min(len(buffer), self._left)
        if not wanted:
            return 0
        # A body that broke off is never taken for one that has ended.
        if self._is_broken:
            raise OSError("the rest of the request's body did not come")
        self._is_broken = True
        try:
            block = self._request.read(wanted)
        except Exception as error:
            raise OSError("the rest of the request's body did not come") from error
        if len(block) != wanted:
            raise OSError("the rest of the request's body did not come")
        self._is_broken = False
        buffer[:wanted] = block
        self._left -= wanted
        return wanted

    def close(self) -> None:
        self._request = None
        super().close()


def _environ(request: Any) -> WSGIEnvironment:
    """Return the WSGI environment: PEP 3333 has every value as Latin-1, whatever its bytes mean."""
    request.add_cgi_vars()
    table = request.subprocess_env
    environ: WSGIEnvironment = {}
    # keys() and get() are safe; items() and the table as a mapping end the worker.
    for name in table.keys():  # noqa: SIM118
        value = _latin1(partial(table.get, name))
        if value is not None:
            environ[name] = value
    authorization = _latin1(lambda: request.headers_in.get("Authorization"))
    if authorization is not None:
        environ["HTTP_AUTHORIZATION"] = authorization
    environ["SCRIPT_NAME"] = ""
    environ["PATH_INFO"] = _latin1(lambda: request.uri)
    environ["REQUEST_URI"] = _latin1(lambda: request.unparsed_uri)
    environ["wsgi.version"] = (1, 0)
    environ["wsgi.url_scheme"] = "http"
    environ["wsgi.input"] = io.BufferedReader(_Body(request, _length(environ)), 65536)
    environ["wsgi.errors"] = sys.stderr
    environ["wsgi.multithread"] = False
    environ["wsgi.multiprocess"] = True
    environ["wsgi.run_once"] = False
    environ["wsgi.file_wrapper"] = _file_wrapper
    return environ


def _length(environ: WSGIEnvironment) -> int:
    """Return the length of the request's body, in bytes; 0 for one that is chunked, or nonsense."""
    length: str = environ.get("CONTENT_LENGTH", "")
    return int(length) if length.isascii() and length.isdigit() and len(length) <= 18 else 0


def _latin1(read: Callable[[], str | None]) -> str | None:
    """Return what a read of mod_python gives; it decodes UTF-8, or fails and shows the bytes."""
    try:
        value = read()
    except UnicodeDecodeError as error:
        return error.object.decode("latin-1")
    return value if value is None else value.encode().decode("latin-1")


def _file_wrapper(file: Any, _block_size: int = 0) -> FileWrapper:
    """Return a file's blocks; each is sent by itself, so Django's 4 KiB would be slow."""
    return FileWrapper(file, 65536)
