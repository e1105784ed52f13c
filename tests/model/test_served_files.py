"""What servers are told of a site's files: which names, which paths."""

from __future__ import annotations

import re

import pytest

from roles import media
from tests.model.conftest import SITES, Home


@pytest.mark.parametrize(
    ("name", "hashed"),
    [
        ("site.0123456789ab.css", True),
        ("LICENSE.0123456789ab", True),
        ("jquery.min.a12345678901.js", True),
        # A date and a time: the file may change, and its name stays.
        ("report.202611301200.pdf", False),
        ("site.css", False),
        ("site.0123456789AB.css", False),
        ("0123456789ab.css", False),
        ("site.0123456789ab.css/x", False),
    ],
)
def test_name_that_holds_a_hash(name: str, hashed: bool) -> None:
    """Browsers may keep for ever what Django named by its content, and nothing else."""
    assert bool(re.search(media.HASHED, name)) is hashed


@pytest.mark.parametrize(
    ("request_line", "odd"),
    [
        ("GET /up/a.png HTTP/1.1", False),
        ("GET /up/.a.png HTTP/1.1", False),
        ("GET /up/..a/a...png HTTP/1.1", False),
        ("GET /up/%2e%2e.png HTTP/1.1", False),
        ("GET /up/a%252Fb.png HTTP/1.1", False),
        ("GET /up/a.png?next=/up/../x%2F HTTP/1.1", False),
        ("GET /page/../up/a.png HTTP/1.1", False),
        ("GET /upper/../a.png HTTP/1.1", False),
        ("GET /up/../a.png HTTP/1.1", True),
        ("GET /up//a.png HTTP/1.1", True),
        ("GET /up/./a.png HTTP/1.1", True),
        ("GET /up/%2E./a.png HTTP/1.1", True),
        ("HEAD /static/.. HTTP/1.1", True),
        ("GET /up/a/%2e?x HTTP/1.1", True),
        ("GET /up/a%2fb.png HTTP/1.1", True),
        ("GET /up/a%0A.png HTTP/1.1", True),
    ],
)
def test_request_that_apache_refuses_as_lighttpd_does(
    home: Home, request_line: str, odd: bool
) -> None:
    """Below the URLs of files a path has one spelling; what comes after a "?" is no path."""
    home.group("all", SITES.replace("domains=", 'media_url="/up/", domains='))
    cluster = home.load()
    pattern = media.files(cluster, cluster.sites[0])["odd_requests"]
    assert bool(re.search(pattern, request_line)) is odd


def test_uploads_below_static_files_stay_uploads(home: Home) -> None:
    """One URL below the other: the longer one is looked at first, and what it says is all."""
    home.group("all", SITES.replace("domains=", 'media_url="/static/up/", domains='))
    cluster = home.load()
    inner, outer = media.files(cluster, cluster.sites[0])["directories"]
    assert (inner["url"], inner["or_else"], inner["hashed_names"]) == ("/static/up/", "", "")
    assert (outer["url"], outer["or_else"], outer["inert_names"]) == ("/static/", "else ", "")


@pytest.mark.parametrize(
    ("path", "hidden"),
    [
        ("/media/a.png", False),
        ("/media/.thumbnails/a.png", False),
        ("/media/a/.thumbs/b/c.jpg", False),
        ("/media/.gitter/a.png", False),
        ("/media/..a/b.png", False),
        ("/media/a.trash/b.png", False),
        ("/media/.a.png", True),
        ("/media/.thumbnails/.a.png", True),
        ("/media/.nfs000000000000abcd00000001", True),
        ("/media/a/.a.png.Xy12Zz", True),
        ("/media/.git/config", True),
        ("/media/a/.SVN/entries", True),
        ("/media/.Trash-1000/files/a.png", True),
        ("/media/.snapshot/daily.0/a.png", True),
        ("/media/.tierstack-old/a.png", True),
    ],
)
def test_what_is_hidden(path: str, hidden: bool) -> None:
    """A file whose name begins with a dot, and folders that keep what was; thumbnails are shown."""
    assert bool(re.search(media.HIDDEN, path)) is hidden
