"""Which URLs are files of the site's root: what its extensions say, and nothing that is hidden."""

from __future__ import annotations

import re

import pytest

from roles.web.mod_python import root_files
from tests.model.conftest import SITES, Home
from tierstack.model.release import Release

RELEASE = Release("0123456789ab", "/srv/blog/releases/0123456789ab")


@pytest.fixture
def url(home: Home) -> re.Pattern[str]:
    """The pattern of a site that has icons and pictures at its root."""
    (home.path / "blog" / "public").mkdir()
    files = 'document_root="public", file_extensions=["ico", "gif"], media_url="/up.loads/", '
    home.group("all", SITES.replace("domains=", f"{files}domains="))
    found = root_files(home.load().sites[0], RELEASE)
    assert found is not None
    assert found["directory"] == "/srv/blog/releases/0123456789ab/src/public"
    return re.compile(str(found["url"]))


@pytest.mark.parametrize(
    ("path", "file"),
    [
        ("/favicon.ico", "favicon.ico"),
        ("/about/us/Logo 1.GIF", "about/us/Logo 1.GIF"),
        ("/static.ico", "static.ico"),
        ("/upXloads/a.gif", "upXloads/a.gif"),
    ],
)
def test_file_is_looked_up(url: re.Pattern[str], path: str, file: str) -> None:
    """At any depth, in small letters or large."""
    found = url.search(path)
    assert found is not None
    assert found[1] == file


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/favicon.ico/",
        "/favicon.icon",
        "/icon",
        "/.ico",
        "/.hidden.ico",
        "/.hidden/in.ico",
        "/about/.git/in.ico",
        "/../secret.ico",
        "/about/../../secret.ico",
        "//etc/secret.ico",
        "/about//secret.ico",
        "/static/logo.gif",
        "/up.loads/logo.gif",
    ],
)
def test_anything_else_is_for_django_or_the_files_below_their_own_url(
    url: re.Pattern[str], path: str
) -> None:
    """Nothing hidden, no way up, no empty part, and not what media_url and static_url lead to."""
    assert not url.search(path)


def test_site_without_such_files_has_none(home: Home) -> None:
    """By default all is Django's."""
    assert root_files(home.load().sites[0], RELEASE) is None
