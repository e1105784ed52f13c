"""A page as a visitor gets it: not only its text, but status, type, length, cookies and headers."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path

from tests.browser import Browser
from tests.chromium import Chromium, chromium
from tests.uploads import PASSWORD, PICTURE, article
from tests.visitor import Answer, Door

HTML = "text/html; charset=utf-8"

#: What Django's middleware adds to each of a site's own answers.
_OF_DJANGO = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}
#: Headers that a browser or a cache reads once: twice, it goes by neither, or by the worse one.
_ONCE = (
    "cache-control", "content-length", "content-security-policy", "content-type", "date", "etag",
    "expires", "last-modified", "location", "server", "transfer-encoding", *_OF_DJANGO,
)  # fmt: skip


def look(
    door: Door,
    path: str,
    kind: str = HTML,
    status: int = 200,
    method: str = "GET",
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
) -> Answer:
    """
    Ask for one of the site's own pages; what came must be what Django answered.

    Args:
        door: where to ask.
        path: the page.
        kind: its Content-Type, "" for none.
        status: how it is answered.
        method: how it is asked for.
        body: what is sent.
        headers: headers that are sent.
    """
    answer = door.ask(path, method, body, headers)
    assert_sound(answer, f"{method} {path}", kind, status)
    # CommonMiddleware redirects before those below it are asked.
    for name, value in _OF_DJANGO.items() if status != 301 else ():
        assert answer[name] == value, f"{method} {path}: {name}: {answer[name]!r}"
    return answer


def assert_sound(answer: Answer, what: str, kind: str = HTML, status: int = 200) -> None:
    """An answer has this status and type, its whole body, and each header once; cookies are secure."""
    assert (answer.status, answer["content-type"]) == (status, kind), (
        f"{what}: {answer.status} {answer['content-type']!r} {answer.error}\n{answer.text[:2000]}"
    )
    names = [name for name, _ in answer.lines]
    assert [name for name in _ONCE if names.count(name) > 1] == [], f"{what}: {answer.lines}"
    # What mod_mime makes of the end of a URL or a file's name: nobody has asked for it.
    assert (answer["content-encoding"], answer["content-language"]) == ("", ""), what
    for cookie in answer.cookies:
        assert "SameSite=" in cookie, f"{what}: {cookie}"


def static_file(page: str, static_url: str = "/static/") -> str:
    """Return the URL path of the first static file that a page links to."""
    return static_url + page.partition(f'href="{static_url}')[2].partition('"')[0]


def assert_pages_are_whole(door: Door) -> None:
    """Pages, JSON, errors, redirects and files: each has the type that it is."""
    front = look(door, "/")
    assert front.body.startswith(b"<!doctype html>")
    assert front.body.rstrip().endswith(b"</html>")
    head = look(door, "/", method="HEAD")
    assert (head.body, head["content-length"]) == (b"", str(len(front.body)))
    look(door, "/status.json", "application/json")
    look(door, "/guestbook/")
    look(door, "/guestbook.json", "application/json", 400, "POST", b"")
    look(door, "/slow/?seconds=x", "text/plain", 400)
    # A redirect to the page with a slash, and one to the log-in.
    moved = look(door, "/guestbook", status=301)
    assert (moved["location"], moved.body) == ("/guestbook/", b"")
    look(door, "/admin/", status=302)
    # What looks like a file with a type, an encoding or a language is a page of the site as well.
    for path in ("/missing", "/missing.py", "/x.gz", "/x.html.fr", "/x.css", "/x.svgz", "/x.var"):
        assert "</html>" in look(door, path, status=404).text, path

    logo = static_file(front.text)
    assert_sound(door.ask(logo), logo, "image/svg+xml")


_SPELLINGS = (
    "/-/{}", "/-/{}?a", "/%2D/{}", "/%2d/{}", "//-/{}", "/-//{}", "/./-/{}", "/-/./{}", "/x/../-/{}",
    "/-/x/../{}", "/x/%2e%2e/-/{}", "/%2f-/{}", "/-%2F{}", "/-/{};", "/-;x/{}", "/-/{}/", "/-/{}%3F",
    "/-/{}%00", "/-\\{}", "/media/../-/{}", "/media/..%2f-/{}", "/static/../-/{}", "/media/-/{}",
)  # fmt: skip


def assert_own_answers_are_hidden(door: Door) -> None:
    """What the cluster asks itself is answered to no visitor, whichever way they spell it."""
    names = ("health", "HEALTH", "%68ealth", "media-health", "error.html")
    # Said of a connection, a header is taken away by some servers.
    visitors: list[dict[str, str]] = [
        {},
        {"Connection": "X-Forwarded-For, X-Forwarded-Proto, X-Forwarded-Port"},
    ]
    for path, name in itertools.product(_SPELLINGS, names):
        for headers in visitors if path == "/%2D/{}" else visitors[:1]:
            url = path.format(name)
            answer = door.ask(url, headers=headers)
            assert answer.status in (400, 404), f"{url}: {answer}"
            assert "release=" not in answer.text, f"{url}: {answer}"
            assert answer.text != "ok\n", url


def assert_admin_is_whole(editor: Browser) -> None:
    """Its log-in sets the session's cookie; its pages and its JavaScript are what they are."""
    assert_sound(editor.get("/admin/"), "/admin/")
    assert_sound(editor.get("/admin/jsi18n/"), "jsi18n", 'text/javascript; charset="utf-8"')
    visitor = Browser(editor.door)
    form = visitor.get("/admin/login/")
    assert [cookie.partition("=")[0] for cookie in form.cookies] == ["csrftoken"]
    assert_sound(form, "/admin/login/")


# Pictures further down are fetched when somebody scrolls there, unless they are called for.
_WHAT_IS_SHOWN = """
const pictures = [...document.images];
for (const picture of pictures) picture.loading = "eager";
await Promise.all(pictures.map(picture => picture.decode().catch(() => 0)));
return [
    [...document.styleSheets].map(sheet => sheet.cssRules.length),
    pictures.map(picture => [new URL(picture.src).pathname, picture.naturalWidth]),
];
"""


def assert_browser_shows_the_site(door: Door, editor: str = "editor") -> None:
    """
    A real browser shows the front page and the admin; what is uploaded there is seen.

    Args:
        door: where to ask.
        editor: who logs in to the admin.
    """
    name = "seen by Chromium.png"
    with chromium(door) as browser, tempfile.TemporaryDirectory() as directory:
        picture = Path(directory) / name
        picture.write_bytes(PICTURE)
        browser.open("/")
        _assert_shown(browser, "/")
        browser.open("/admin/login/?next=/admin/articles/article/add/")
        browser.fill(username=editor, password=PASSWORD)
        browser.click("[type=submit]")
        _assert_shown(browser, "the admin")
        slug = article(name).split("/")[2]
        browser.fill(title=name, slug=slug, body="With a picture.", image=str(picture))
        browser.click("[name=_save]")
        _assert_shown(browser, "the admin's list")
        assert browser.script("return document.querySelectorAll('.errornote').length") == 0
        browser.open(article(name))
        shown = _assert_shown(browser, article(name))
        assert [width for path, width in shown.items() if path.startswith("/media/")] == [1]


def _assert_shown(browser: Chromium, what: str) -> dict[str, int]:
    """A page has its style and its pictures, and no error; return their widths by path, in pixels."""
    styles, pictures = browser.script(_WHAT_IS_SHOWN)
    assert styles, f"{what} has no style"
    assert all(styles), f"{what}: {styles}"
    assert all(width for _, width in pictures), f"{what}: {pictures}"
    errors = browser.errors()
    assert errors == [], f"{what}: {errors}"
    return dict(pictures)
