"""Settings by which a server answers with other headers, or Apache loads other modules; and a look."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.certificate import make_certificate
from tests.ladder.odd_answers import ask_by_http2
from tests.look import assert_sound, look, static_file
from tests.operator import Operator, assert_nothing_changed
from tests.uploads import add_article, article, log_in, url_of
from tests.visitor import Answer, Door

_FILES: dict[str, dict[str, Any]] = {
    "sites": {
        "document_root": None,
        "file_extensions": [],
        "hashed_static": False,
        "media_url": "/uploads/",
        "static_url": "/assets/",
    },
    "media": {"max_age_s": 60},
}

#: What each arrangement is changed to, a tier's settings or the site's: first those of who serves
#: files, Apache and lighttpd, then those of the balancer. tests/model/test_headers.py sees that no
#: setting of the kind is missing.
CHANGES: dict[str, dict[str, dict[str, Any]]] = {
    "2-database-apart": _FILES,
    "3-media-apart": _FILES,
    "4-load-balanced": {
        "balancer": {
            "certificate": "www.pem",
            "hsts_s": 3600,
            "http2": False,
            "https_port": 8443,
        },
    },
    "5-going-big": {"balancer": {"https": False}},
}

_SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'


def assert_pages_are_whole_with_other_settings(operator: Operator) -> None:
    """Deploy an arrangement with the other settings, look at pages and files, and deploy again."""
    changes = CHANGES[operator.inventory.stem]
    if "certificate" in changes.get("balancer", {}):
        make_certificate(operator.home / "www.pem", operator.cluster().sites[0].settings.domains)
    with (operator.home / "group_data" / "all.py").open("a", encoding="utf-8") as file:
        for tier, settings in changes.items():
            file.write(f"{'sites[0]' if tier == 'sites' else tier}.update({settings!r})\n")
    operator.deploy_well()
    if "sites" in changes:
        _look_at_files(operator)
    elif changes["balancer"].get("https", True):
        _look_at_https(operator)
    else:
        _look_at_http(operator)
    assert_nothing_changed(operator.deploy())


def _look_at_files(operator: Operator) -> None:
    by_apache = not operator.cluster().tier("media")
    modules = operator.ask("web1", "apachectl -M 2>&1")
    for module in ("headers_module", "mime_module"):
        assert (module in modules) == by_apache, modules

    ask = operator.door.ask
    front = _pages(operator.door)
    style = static_file(front.text, "/assets/")
    assert_sound(ask(style), style, "image/svg+xml")
    editor = log_in(operator, "reader")
    assert add_article(editor, "another place.png").status == 302
    picture = url_of(editor.get(article("another place.png")).text, "/uploads/")
    operator.ask(
        operator.cluster().media_home.name,
        "runuser -u example -- sh -c 'cat > /srv/example/media/x.svg'",
        given=_SVG.decode(),
    )
    # One name for good, the other for a minute; neither is hashed any more.
    for url, kind, age in (
        (style, "image/svg+xml", 3600),
        (picture, "image/png", 60),
        ("/uploads/x.svg", "image/svg+xml", 60),
    ):
        answer = ask(url)
        assert_sound(answer, url, kind)
        assert answer["server"] == ("Apache" if by_apache else "lighttpd"), answer
        assert answer["cache-control"] == f"public, max-age={age}", answer
        assert answer["x-content-type-options"] == "nosniff", answer
        assert (answer["content-security-policy"] == "sandbox") == ("x.svg" in url), answer
    # What was a file is the site's to answer.
    for url in ("/robots.txt", "/static/logo.svg", "/media/x.svg"):
        look(operator.door, url, status=404)


def _look_at_https(operator: Operator) -> None:
    door = replace(operator.door, port=8443)
    front = _pages(door)
    static = static_file(front.text)
    ask = door.ask
    for answer in (front, ask(static), ask("/missing"), ask("/media/none"), ask("/admin/")):
        assert answer["strict-transport-security"] == "max-age=3600", answer
    plain = replace(operator.door, tls=False).ask("/")
    assert (plain.status, plain["strict-transport-security"]) == (301, "")
    assert plain["location"] == f"https://{door.domain}:8443/"
    # A stream that breaks off is cut for whoever would rather come by HTTP/2, too.
    assert ask_by_http2(door, "/wsgi/broken") == (18, "1.1 200")


def _look_at_http(operator: Operator) -> None:
    plain = replace(operator.door, tls=False)
    front = look(plain, "/")
    static = static_file(front.text)
    assert_sound(plain.ask(static), static, "image/svg+xml")
    look(plain, "/missing", status=404)
    form = plain.ask("/admin/login/")
    assert_sound(form, "/admin/login/")
    # Browsers would keep a secure cookie to themselves, and nobody could log in.
    assert [("secure" in cookie.lower()) for cookie in form.cookies] == [False]
    assert front["strict-transport-security"] == ""
    assert operator.door.ask("/").status == 0


def _pages(door: Door) -> Answer:
    look(door, "/status.json", "application/json")
    look(door, "/missing.html", status=404)
    look(door, "/guestbook", status=301)
    return look(door, "/")
