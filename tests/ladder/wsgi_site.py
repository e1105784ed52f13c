"""
The example site's wsgi.py, as the ladder's tests serve it.

Each request of the site passes through wsgiref.validate, and below /wsgi/ lie applications that use
WSGI in ways that Django does not, or that fail.
"""

import io
import os
import tempfile
from urllib.parse import parse_qs
from wsgiref.validate import validator

from django.core.wsgi import get_wsgi_application
from django.http import FileResponse, StreamingHttpResponse
from django.urls import path

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mysite.settings")

BLOCK = b"0123456789" * 1000
TEXT = [("Content-Type", "text/plain")]


def broken(environ, start):
    """Fail after ?blocks= of 10,000 bytes, of unknown length or of ?length=."""
    start("200 OK", TEXT + _length(environ))
    for _ in range(int(_asked(environ, "blocks", "10"))):
        yield BLOCK
    raise RuntimeError("broken off, on purpose")


def short(environ, start):
    """End well, with fewer bytes than were promised."""
    start("200 OK", TEXT + _length(environ))
    for _ in range(10):
        yield BLOCK


def nothing(environ, start):
    """Promise ?length= bytes, or nothing; send none."""
    start("200 OK", TEXT + _length(environ))
    return []


def fails(environ, start):
    """Fail before anything is sent, though start_response was called."""
    start("200 OK", TEXT + [("X-Wrong", "yes")])
    raise RuntimeError("failed at once, on purpose")


def replaced(environ, start):
    """Replace an answer that has not begun by another one; a third without exc_info is an error."""
    start("200 OK", TEXT + [("X-Wrong", "yes"), ("Set-Cookie", "wrong=1")])
    try:
        raise ValueError("on purpose")
    except ValueError as error:
        start("503 Later", TEXT + [("X-Right", "yes")], (ValueError, error, error.__traceback__))
    try:
        start("200 OK", TEXT + [("X-Wrong", "yes")])
    except AssertionError:
        return [b"once"]
    return [b"twice"]


def too_late(environ, start):
    """Have an error after the first block: start_response raises it again."""
    start("200 OK", TEXT)
    yield BLOCK
    try:
        raise ValueError("too late, on purpose")
    except ValueError as error:
        start("500 Error", TEXT, (ValueError, error, error.__traceback__))
    yield b"the error's page"


def hops(environ, start):
    """Say what is the server's own to say."""
    ours = [("Connection", "keep-alive"), ("Keep-Alive", "9"), ("Transfer-Encoding", "gzip")]
    start("200 OK", TEXT + ours)
    return [b"hops"]


def written(environ, start):
    """Answer by the callable write() and by blocks."""
    write = start("200 OK", TEXT)
    write(b"one ")
    write(b"")
    write(b"two ")
    return [b"three ", b"", b"four"]


def started_late(environ, start):
    """Be a generator, which starts with its first block."""
    start("200 OK", [*TEXT, *(("Set-Cookie", f"c{n}={n}") for n in range(3))])
    yield b""
    yield b"late"


def code(environ, start):
    """Answer by the status that the query names."""
    status = environ["QUERY_STRING"].replace("+", " ")
    kind = [] if status[:3] in ("204", "304") else TEXT
    start(status, [*kind, ("ETag", '"1"')])
    return [] if status[:3] in ("204", "304") else [b"body"]


def file(environ, start):
    """Send a file of 1,000,000 bytes."""
    # The wrapper closes it.
    opened = tempfile.TemporaryFile()  # noqa: SIM115
    opened.write(BLOCK * 100)
    opened.seek(0)
    start("200 OK", [("Content-Type", "application/octet-stream"), ("Content-Length", "1000000")])
    return environ["wsgi.file_wrapper"](opened, 4096)


def echo(environ, start):
    """Send the body back, read as the query says; then what comes after its end."""
    body, how = environ["wsgi.input"], environ["QUERY_STRING"]
    if how == "read":
        parts = [body.read(int(environ["CONTENT_LENGTH"] or 0))]
    elif how == "more":
        parts = [body.read(10_000_000)]
    elif how == "all":
        parts = [body.read(-1)]
    elif how == "sizes":
        parts = [body.read(1), body.readline(), body.read(7), body.readline(3), *body.readlines(9)]
        parts.append(body.read(1_000_000))
    elif how == "lines":
        parts = body.readlines()
    else:
        parts = list(body)
    rest = [body.read(1), body.read(-1), body.readline(), *body.readlines(), *body]
    start("200 OK", TEXT)
    return [*parts, b"|", *rest]


def cut_body(environ, start):
    """Go on reading a body that breaks off."""
    body, found = environ["wsgi.input"], []
    print("cut body begins", file=environ["wsgi.errors"], flush=True)
    for read in (body.readline, body.read, body.readline, body.readlines):
        try:
            read()
            found.append("read")
        except OSError:
            found.append("OSError")
    print("cut body:", *found, file=environ["wsgi.errors"], flush=True)
    start("200 OK", TEXT)
    return [b"not whole"]


class Endless:
    """Send for ever; say when it is closed."""

    def __init__(self, environ, start):
        self.errors = environ["wsgi.errors"]
        start("200 OK", TEXT)

    def __iter__(self):
        while True:
            yield BLOCK

    def close(self):
        print("endless: closed", file=self.errors, flush=True)


def _asked(environ, name, default=""):
    return parse_qs(environ["QUERY_STRING"]).get(name, [default])[0]


def _length(environ):
    length = _asked(environ, "length")
    return [("Content-Length", length)] if length else []


#: What PEP 3333 allows is looked at by wsgiref as well.
_ODD = {
    **{f.__name__: f for f in (broken, short, fails, replaced, too_late, hops, cut_body, Endless)},
    **{f.__name__: validator(f) for f in (nothing, written, started_late, code, file)},
    # Its wrapper of wsgi.input takes exactly one argument, and a read of -1 bytes for a mistake.
    "echo": echo,
}
_SITE = validator(get_wsgi_application())


def page_stream(request):
    """Send events, as they come; with ?fail= fail in their middle."""

    def events():
        yield from (b"data: 1\n\n", b"data: 2\n\n")
        if request.GET:
            raise RuntimeError("stream broken, on purpose")

    return StreamingHttpResponse(events(), content_type="text/event-stream")


def page_file(request):
    """Send what is packed already: its encoding is the site's word."""
    answer = FileResponse(io.BytesIO(BLOCK * 30), filename="x.tar.gz", as_attachment=True)
    answer["Content-Encoding"] = "identity"
    answer["Content-Language"] = "fr"
    return answer


def page_fails(request):
    """Fail as views do."""
    raise RuntimeError("page failed, on purpose")


# Once Django is set up.
import mysite.urls  # noqa: E402

mysite.urls.urlpatterns += [
    path(f"odd/{page.__name__}/", page) for page in (page_stream, page_file, page_fails)
]


def application(environ, start):
    name = environ["PATH_INFO"].removeprefix("/wsgi/")
    return _ODD.get(name, _SITE)(environ, start)
