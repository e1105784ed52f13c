"""
A real browser: Chromium, led by its own driver.

It sees what no test of a body sees: a page without its style sheet, a picture that is none, a script
that a policy forbids. Source: https://www.w3.org/TR/webdriver2/
"""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.needs import need
from tests.operator import wait_until
from tests.prepare import CHROMIUM, install
from tests.visitor import Door
from tierstack.lab.commands import LabError

_TIMEOUT_S = 30
# The driver and the hosts are near: a proxy of this machine's would not find them.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"


class Chromium:
    """
    A browser with one window.

    Args:
        url: the driver's.
        door: the site, which is found under this address whatever name servers say.
        profile: an empty directory.
    """

    def __init__(self, url: str, door: Door, profile: Path) -> None:
        self._url = url
        self._site = f"{'https' if door.tls else 'http'}://{door.domain}"
        options = {
            "binary": shutil.which("chromium"),
            "args": [*flags(door, profile), "--window-size=1200,900"],
        }
        wanted = {
            "browserName": "chrome",
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL"},
            # A busy machine is given time to lay a page out.
            "timeouts": {"implicit": 5000},
        }
        made = self._say("POST", "", {"capabilities": {"alwaysMatch": wanted}})
        self._url += f"/{made['sessionId']}"

    def open(self, path: str) -> None:
        """Open a page of the site, and wait until all of it is there."""
        self._say("POST", "/url", {"url": self._site + path})

    def fill(self, **fields: str) -> None:
        """Type into fields of a form; into a field of files, the path of one."""
        for name, text in fields.items():
            field = self._element(f"[name={name}]")
            # A file's field cannot be emptied.
            if self.script("return arguments[0].type != 'file'", {_ELEMENT: field}):
                self._say("POST", f"/element/{field}/clear", {})
            self._say("POST", f"/element/{field}/value", {"text": text})

    def click(self, selector: str) -> None:
        """Click on what a CSS selector finds, and wait for the page that comes."""
        self.script("window.before = true")
        self._say("POST", f"/element/{self._element(selector)}/click", {})
        there = "return !window.before && document.readyState == 'complete'"
        wait_until(f"{selector} leads to a page", lambda: self.script(there), _TIMEOUT_S, 0.05)

    def script(self, text: str, *arguments: object) -> Any:
        """Return what a piece of JavaScript returns in the page."""
        return self._say("POST", "/execute/sync", {"script": text, "args": arguments})

    def errors(self) -> list[str]:
        """Return what the console has said since the last time, but for what is only news."""
        lines = self._say("POST", "/se/log", {"type": "browser"})
        return [line["message"] for line in lines if line["level"] in ("SEVERE", "WARNING")]

    def picture(self, file: Path) -> None:
        """Write a picture of the window."""
        file.write_bytes(base64.b64decode(self._say("GET", "/screenshot")))

    def close(self) -> None:
        """End the browser."""
        self._say("DELETE", "")

    def _element(self, selector: str) -> str:
        try:
            found = self._say("POST", "/element", {"using": "css selector", "value": selector})
        except AssertionError as error:
            shown = self.script("return `${location.href}\\n${document.body.innerText}`")
            raise AssertionError(f"{error}\n{shown}") from None
        return str(found[_ELEMENT])

    def _say(self, method: str, path: str, data: object = None) -> Any:
        body = None if data is None else json.dumps(data).encode()
        request = urllib.request.Request(self._url + path, body, method=method)
        try:
            with _OPENER.open(request, timeout=_TIMEOUT_S) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            said = json.load(error)["value"]
            raise AssertionError(f"{method} {path}: {said['message']}") from None


def flags(door: Door, profile: Path) -> list[str]:
    """
    Return what Chromium is started with to look at a site.

    Args:
        door: the site; its certificate is not judged.
        profile: an empty directory.
    """
    return [
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-dev-shm-usage",
        "--no-first-run", "--disable-background-networking", "--disable-component-update",
        "--disable-sync", "--no-proxy-server", "--ignore-certificate-errors", "--hide-scrollbars",
        f"--user-data-dir={profile}",
        f"--host-resolver-rules=MAP {door.domain} {door.address}",
    ]  # fmt: skip


@contextmanager
def chromium(door: Door) -> Iterator[Chromium]:
    """Start a browser that looks at a site; it is ended after the block."""
    try:
        install(CHROMIUM)
    except LabError as error:
        need(f"no Chromium: {error}")
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile,
        subprocess.Popen(["chromedriver", "--port=0"], stdout=subprocess.PIPE, text=True) as driver,
    ):
        try:
            said = next(
                (line for line in driver.stdout or () if "successfully on port" in line), ""
            )
            port = re.search(r"on port (\d+)", said)
            assert port, "chromedriver does not start"
            browser = Chromium(f"http://127.0.0.1:{port[1]}/session", door, Path(profile))
            try:
                yield browser
            finally:
                browser.close()
        finally:
            driver.terminate()
