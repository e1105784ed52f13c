"""A request as mod_python gives it, as far as our handler uses it."""

from __future__ import annotations

import types


class Table:
    """mod_python's table: get() decodes UTF-8 or fails, and there is no safe way beside it."""

    def __init__(self, values: dict[str, bytes | None]) -> None:
        self.values = values

    def keys(self) -> list[str]:
        return list(self.values)

    def get(self, name: str) -> str | None:
        value = self.values.get(name)
        return None if value is None else value.decode()


class Headers:
    """mod_python's table of headers that go out."""

    def __init__(self) -> None:
        self.added: list[tuple[str, str]] = []

    def add(self, name: bytes, value: bytes) -> None:
        # It knows no subclass of either, and str as Latin-1 only.
        assert type(name) is bytes
        assert type(value) is bytes
        self.added.append((name.decode("latin-1"), value.decode("latin-1")))


class Request:
    """
    mod_python's request.

    Args:
        uri: the path, decoded.
        method: GET, HEAD, ...
        unparsed_uri: the path as it was sent.
        arriving: what there is of the body.
        variables: CGI's.
    """

    def __init__(
        self,
        uri: bytes = b"/",
        method: str = "GET",
        unparsed_uri: bytes | None = None,
        arriving: bytes = b"",
        **variables: bytes | None,
    ) -> None:
        self._uri, self._unparsed_uri = uri, uri if unparsed_uri is None else unparsed_uri
        self._arriving = arriving
        self.method, self.proto_num = method, 1001
        self.status = 200
        self.status_line = b""
        self.content_type: bytes | None = b"what Apache makes of a file's name"
        self.headers_in = Table({"Authorization": None})
        self.headers_out = Headers()
        self.subprocess_env = Table({"REQUEST_METHOD": method.encode(), **variables})
        self.connection = types.SimpleNamespace(keepalive=0)
        #: What was sent, block by block; None stands for a flush.
        self.sent: list[bytes | None] = []
        self.is_gone = False
        self.broken_reads = 0

    @property
    def uri(self) -> str:
        return self._uri.decode()

    @property
    def unparsed_uri(self) -> str:
        return self._unparsed_uri.decode()

    def add_cgi_vars(self) -> None:
        """Fill the table: done."""

    def read(self, size: int) -> bytes:
        """Read so many bytes, fewer only at the end; a body that broke off is an error, once."""
        assert size > 0, "mod_python reads all for a negative size"
        block, self._arriving = self._arriving[:size], self._arriving[size:]
        if len(block) < size:
            self.broken_reads += 1
            assert self.broken_reads == 1, "the worker would end here"
            raise OSError("Client read error (Timeout?)")
        return block

    def write(self, block: bytes) -> None:
        if self.is_gone:
            raise OSError("Write failed, client closed connection.")
        self.sent.append(block)

    def flush(self) -> None:
        if self.is_gone:
            raise OSError("Flush failed, client closed connection.")
        self.sent.append(None)

    @property
    def headers(self) -> dict[str, str]:
        """The headers that were sent; each once."""
        names = [name for name, _ in self.headers_out.added]
        assert len(names) == len(set(names)), names
        return dict(self.headers_out.added)

    @property
    def body(self) -> bytes:
        """What was sent, without the frames of chunks."""
        sent = b"".join(block or b"" for block in self.sent)
        if "Transfer-Encoding" not in self.headers:
            return sent
        body = b""
        while sent not in (b"", b"!\r\n"):
            size, _, sent = sent.partition(b"\r\n")
            body, sent = body + sent[: int(size, 16)], sent[int(size, 16) + 2 :]
        return body

    @property
    def ends_well(self) -> bool:
        """Whether whoever reads the answer takes it for whole."""
        if "Transfer-Encoding" in self.headers:
            return b"".join(block or b"" for block in self.sent).endswith(b"0\r\n\r\n")
        return len(self.body) == int(self.headers["Content-Length"])
