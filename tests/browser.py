"""A small browser for the stories: keeps cookies, fills in Django's forms, uploads files."""

from __future__ import annotations

import re
import uuid
from urllib.parse import urlencode, urlsplit

from tests.visitor import Answer, Door


class Browser:
    """
    A visitor who stays the same one from page to page.

    Args:
        door: the site's front door.
    """

    def __init__(self, door: Door) -> None:
        self.door = door
        self.cookies: dict[str, str] = {}

    def get(self, path: str) -> Answer:
        """Open a page; redirects within the site are followed."""
        answer = self._ask("GET", path)
        for _ in range(5):
            if answer.status not in (301, 302):
                break
            target = urlsplit(answer["location"])
            answer = self._ask("GET", target.path + (f"?{target.query}" if target.query else ""))
        return answer

    def post(
        self, path: str, fields: dict[str, str], files: dict[str, tuple[str, bytes]] | None = None
    ) -> Answer:
        """
        Open a page with a form and send it, filled in.

        Args:
            path: the page.
            fields: values by field name.
            files: name and content by field name.
        """
        form = self.get(path)
        token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', form.text)
        assert token, f"no form at {path}: {form.status} {form.error} {form.text[:300]}"
        fields = {**fields, "csrfmiddlewaretoken": token[1]}
        if files is None:
            body, kind = urlencode(fields).encode(), "application/x-www-form-urlencoded"
        else:
            body, kind = _multipart(fields, files)
        return self._ask("POST", path, body, {"Content-Type": kind})

    def log_in(self, user: str, password: str, admin: str = "/admin/") -> None:
        """Log in to Django's admin, which is there."""
        answer = self.post(
            f"{admin}login/", {"username": user, "password": password, "next": admin}
        )
        assert answer.status == 302, f"not logged in: {answer.status} {answer.text[:500]}"

    def _ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        sent = {
            "Cookie": "; ".join(f"{name}={value}" for name, value in self.cookies.items()),
            "Referer": f"https://{self.door.domain}{path}",
            **(headers or {}),
        }
        answer = self.door.ask(path, method, body, sent, timeout_s=30)
        for cookie in answer.cookies:
            name, _, value = cookie.partition(";")[0].partition("=")
            self.cookies[name] = value
        return answer


def _multipart(fields: dict[str, str], files: dict[str, tuple[str, bytes]]) -> tuple[bytes, str]:
    boundary = uuid.uuid4().hex
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    ]
    for name, (filename, content) in files.items():
        head = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="{filename}"'
            "\r\nContent-Type: application/octet-stream\r\n\r\n"
        )
        parts.append(head.encode() + content + b"\r\n")
    return b"".join(
        parts
    ) + f"--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"
