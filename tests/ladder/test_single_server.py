"""The chapter's first arrangement: one host is the front door, the site, its database and its files."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.browser import Browser
from tests.ladder.conftest import assert_root_files, deployed
from tests.operator import Operator, assert_nothing_changed
from tests.uploads import log_in, upload
from tests.visitor import steady_visitor, steady_writer


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    """Somebody with one host, freshly deployed."""
    with deployed(tmp_path_factory.mktemp("ladder"), "1-single-server", Operator) as somebody:
        yield somebody


@pytest.fixture(scope="module")
def editor(operator: Operator) -> Browser:
    """An editor who has logged in to the admin."""
    return log_in(operator)


def test_second_run_changes_nothing(operator: Operator) -> None:
    """Twice is the test of once; and `status` finds every tier on the one host."""
    assert_nothing_changed(operator.deploy())
    said = operator.tierstack("status", str(operator.inventory))
    assert said.status == 0, said.out
    assert [line.split()[:2] for line in said.out.splitlines()[1:5]] == [
        [tier, "web1"] for tier in ("balancer", "web", "db", "cache")
    ]


def test_apache_serves_uploads_and_static_files(operator: Operator, editor: Browser) -> None:
    """As a media host would: for long, under any name, harmless, and nothing that is hidden."""
    url, served = upload(operator, editor, "déjà reçu 日本 n°1.png", server="Apache")
    assert served["x-content-type-options"] == "nosniff"
    assert served["content-security-policy"] == ""
    assert operator.door.ask(url, headers={"If-None-Match": served["etag"]}).status == 304
    assert operator.door.ask(url.rpartition("/")[0] + "/").status in (403, 404), "a listing"
    folder = "/srv/example/media"
    assert operator.ask("web1", f"stat -c '%U %a' {folder}/articles/*.png") == "example 644"
    operator.ask("web1", f"cd {folder} && echo x > page.html && echo x > .hidden && ln -s / all")
    page = operator.door.ask("/media/page.html")
    assert (page.status, page["content-security-policy"]) == (200, "sandbox")
    assert operator.door.ask("/media/.hidden").status == 403
    assert operator.door.ask("/media/all/etc/hostname").status == 403

    front = operator.door.ask("/").text
    url = "/static/" + front.partition('href="/static/')[2].partition('"')[0]
    served = operator.door.ask(url)
    assert (served.status, "immutable" in served["cache-control"]) == (200, True)
    assert operator.door.ask("/static/.releases/").status == 403


def test_files_of_the_root_are_looked_up(operator: Operator) -> None:
    """What ends with one of the site's file_extensions is a file, and Django is never asked for it."""
    assert_root_files(operator)


def test_release_fails_no_request(operator: Operator) -> None:
    """The only node restarts; visitors who read and who write wait for it, and none is refused."""
    before = operator.door.ask("/static/css/site.css").status
    operator.edit("</footer>", "<!-- two --></footer>", "example/templates/base.html")
    with (
        steady_writer(operator.door, pause_s=0.2) as written,
        steady_visitor(operator.door, "/status.json") as seen,
    ):
        operator.deploy_well()
    assert seen.requests > 50
    assert seen.failed == []
    assert written.failed == []
    assert written.acknowledged
    rows = "select count(*) from guestbook_entry where message = 'I was here.'"
    kept = operator.ask("web1", f'runuser -u postgres -- psql -At example -c "{rows}"')
    assert int(kept) == len(written.acknowledged)
    assert "<!-- two -->" in operator.door.ask("/").text
    assert operator.door.ask("/static/css/site.css").status == before
    assert_nothing_changed(operator.deploy())


def test_broken_release_leaves_the_old_one_serving(operator: Operator) -> None:
    """Its pages fail: the old release comes back, and whoever has waited gets it."""
    operator.edit("{% load static %}", "{% load nothing %}", "example/templates/base.html")
    with steady_visitor(operator.door, "/status.json") as seen:
        stopped = operator.deploy()
    operator.edit("{% load nothing %}", "{% load static %}", "example/templates/base.html")
    assert stopped.status != 0
    assert seen.failed == []
    assert operator.door.ask("/").status == 200
    operator.deploy_well()  # Forgets the settings that were laid out for it.
