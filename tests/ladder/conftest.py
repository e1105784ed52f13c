"""Somebody with one of the chapter's arrangements, freshly deployed."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest

from tests.browser import Browser
from tests.needs import lab_directory, need_root
from tests.operator import ROOT, Operator
from tests.uploads import PICTURE, add_article, article, url_of

#: A lab of its own: that of the stories may still be up.
LAB = {
    "TIERSTACK_LAB_DIR": lab_directory("test-ladder-lab"),
    "TIERSTACK_LAB_SUBNET": "10.77.24.0/24",
}

ROBOTS = "User-agent: *\nDisallow: /admin/\n"
GIF = b"GIF89a\x01\x00\x01\x00\x00\x00\x00;"


Somebody = TypeVar("Somebody", bound=Operator)


@contextmanager
def deployed(
    home: Path,
    arrangement: str,
    kind: type[Somebody],
    prepare: Callable[[Somebody], object] = lambda somebody: None,
) -> Iterator[Somebody]:
    """
    Deploy an arrangement to fresh hosts, which are away afterwards.

    Args:
        home: an empty directory, which becomes the operator's.
        arrangement: an inventory of `inventories/ladder`, without `.py`.
        kind: what sort of operator it is.
        prepare: changes what is to be deployed.
    """
    need_root()
    shutil.copytree(ROOT / "inventories" / "ladder", home, dirs_exist_ok=True)
    shutil.copytree(ROOT / "example", home / "example")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in LAB.items():
            patch.setenv(name, value)
        somebody = kind.at(home / f"{arrangement}.py")
        somebody.edit("../../example", "example", "group_data/all.py")
        # All visitors of the tests come from one address, and wait together while a node restarts.
        somebody.edit(
            "sites = [", "balancer = dict(source_connections=400)\n\nsites = [", "group_data/all.py"
        )
        _put_files_at_the_root(somebody)
        _write_as_before_django_3(somebody)
        _take_an_environment(somebody)
        shutil.copy(ROOT / "tests/ladder/wsgi_site.py", home / "example/mysite/wsgi.py")
        prepare(somebody)
        with somebody.fresh_hosts():
            somebody.deploy_well()
            yield somebody


def _take_an_environment(somebody: Operator) -> None:
    """Have manage.py look for the name of an environment in its first argument."""
    somebody.edit(
        '    """Run administrative tasks."""\n',
        '    if sys.argv[1] != "development":\n'
        '        sys.exit(f"{sys.argv[1]} is no environment")\n    del sys.argv[1]\n',
        "example/manage.py",
    )


def _put_files_at_the_root(somebody: Operator) -> None:
    """Have Apache look up some URLs as files, as in the chapter; the project has two of them."""
    built = """build=["sh -c 'echo built by $(id -un) >public/built.txt'"],"""
    site = f'document_root="public", file_extensions=["ico", "txt", "gif"], {built}'
    somebody.edit("domains=", f"{site}\n        domains=", "group_data/all.py")
    public = somebody.home / "example" / "public"
    (public / "about").mkdir(parents=True)
    (public / ".hidden").mkdir()
    (public / "robots.txt").write_text(ROBOTS, encoding="utf-8")
    for secret in (".hidden.txt", ".hidden/in.txt", "notes.md"):
        (public / secret).write_text("not for visitors", encoding="utf-8")
    (public / "about" / "Logo 1.GIF").write_bytes(GIF)
    (public / "favicon.ico").write_bytes(GIF)  # Browsers ask for it where no page names another.
    (public / "settings.txt").symlink_to("../mysite/settings.py")


def _write_as_before_django_3(somebody: Operator) -> None:
    """Have large uploads be the site's alone, and all that it writes by itself."""
    lines = "FILE_UPLOAD_PERMISSIONS = FILE_UPLOAD_DIRECTORY_PERMISSIONS = None\nos.umask(0o077)\n"
    somebody.edit("\nSESSION_ENGINE", f"\n{lines}\nSESSION_ENGINE", "example/mysite/settings.py")


def assert_large_upload_is_served(operator: Operator, editor: Browser) -> None:
    """One that Django keeps in a file of its own meanwhile, above 2.5 MB."""
    name, content = "large.png", PICTURE + bytes(3 * 2**20)
    saved = add_article(editor, name, content)
    assert saved.status == 302, saved.text[:2000]
    served = operator.door.ask(url_of(editor.get(article(name)).text))
    assert (served.status, len(served.body)) == (200, len(content))


def assert_root_files(operator: Operator) -> None:
    """Files of the site's root are served by Apache; nothing hidden, linked or of another kind is."""
    ask = operator.door.ask
    robots, logo = ask("/robots.txt"), ask("/about/Logo%201.GIF")
    assert (robots.status, robots.text, robots["content-type"]) == (200, ROBOTS, "text/plain")
    assert (logo.status, logo.body, logo["content-type"]) == (200, GIF, "image/gif")
    assert logo["server"] == robots["server"] == ask("/")["server"] == "Apache"
    assert robots["cache-control"] == "public, max-age=3600"
    # What the site's own command has made is a part of the release.
    assert ask("/built.txt").text == "built by tierstack-build\n"
    # Files of a release are all equally old: nothing is to be concluded from that.
    assert (robots["etag"], robots["last-modified"]) == ("", "")
    # Apache's own 404, without Django's page: Django is not asked.
    missing = ask("/articles/missing.gif")
    assert (missing.status, "Not Found</h1>" in missing.text) == (404, True)
    assert ask("/settings.txt").status == 403
    for path in (
        "/.hidden.txt", "/.hidden/in.txt", "/notes.md", "/about/", "/requirements.txt",
        "/../requirements.txt", "/about/../../requirements.txt", "/..%2frequirements.txt",
        "/%2e%2e/requirements.txt", "/%2e%2e%2frequirements.txt", "//requirements.txt",
        "/about/%2e%2e/%2e%2e/requirements.txt", "/about/..%2f..%2frequirements.txt",
    ):  # fmt: skip
        answer = ask(path)
        assert answer.status in (400, 403, 404), path
        assert "psycopg" not in answer.text
        assert "not for visitors" not in answer.text
