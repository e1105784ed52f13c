"""The chapter's other arrangements, each from nothing: more hosts, and the same site."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.files import assert_no_trick_gets_a_file
from tests.ladder.conftest import assert_large_upload_is_served, assert_root_files, deployed
from tests.ladder.header_settings import assert_pages_are_whole_with_other_settings
from tests.ladder.odd_answers import assert_wsgi_is_kept
from tests.look import (
    assert_admin_is_whole,
    assert_browser_shows_the_site,
    assert_own_answers_are_hidden,
    assert_pages_are_whole,
    static_file,
)
from tests.operator import Operator, assert_nothing_changed
from tests.uploads import log_in, upload
from tierstack.model.ports import listeners

#: Of a package in the project, whose build leaves a process at work.
_SETUP = """
import os
import pwd
from setuptools import setup
with open("shared.py", "a") as file:
    file.write(f"BY = {pwd.getpwuid(os.getuid()).pw_name!r}\\n")
if os.fork() == 0:
    os.setsid()
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in range(3):
        os.dup2(nowhere, standard)
    os.execvp("sleep", ["sleep", "54321"])
setup(name="shared", version="1.0", py_modules=["shared"])
"""


@pytest.fixture(
    scope="module",
    params=["2-database-apart", "3-media-apart", "4-load-balanced", "5-going-big"],
)
def operator(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Operator]:
    """Somebody with one of the arrangements, freshly deployed."""
    with deployed(
        tmp_path_factory.mktemp("ladder"), request.param, Operator, _require_own_package
    ) as somebody:
        yield somebody


def _require_own_package(somebody: Operator) -> None:
    package = somebody.home / "example" / "libs" / "shared"
    package.mkdir(parents=True)
    (package / "setup.py").write_text(_SETUP, encoding="utf-8")
    (package / "shared.py").write_text('WORD = "shared"\n', encoding="utf-8")
    (somebody.home / "example" / ".env.production").write_text("KEY=1\n", encoding="utf-8")
    with (somebody.home / "example" / "requirements.txt").open("a", encoding="utf-8") as file:
        file.write("./libs/shared\n")


def test_site_is_whole(operator: Operator) -> None:
    """Pages of every web host, the same rows and cached value on each; static files; an upload."""
    cluster = operator.cluster()
    server = "lighttpd" if cluster.tier("media") else "Apache"
    seen = [operator.door.ask("/status.json") for _ in range(12)]
    assert [answer.status for answer in seen] == [200] * 12, seen[0]
    pages = [answer.json() for answer in seen]
    assert {page["node"] for page in pages} == {host.name for host in cluster.tier("web")}
    assert {(page["articles"], page["database"]) for page in pages} == {(3, "postgresql")}
    assert len({page["cached"]["text"] for page in pages}) == 1, "nodes do not share their cache"

    front = operator.door.ask("/").text
    static = operator.door.ask(static_file(front))
    assert (static.status, "immutable" in static["cache-control"]) == (200, True)
    assert server in static["server"]

    editor = log_in(operator)
    upload(operator, editor, "déjà reçu n°1.png", server=server)
    assert_pages_are_whole(operator.door)
    assert_admin_is_whole(editor)
    owner = operator.ask(
        cluster.media_home.name, "stat -c '%U %a' /srv/example/media/articles/*.png"
    )
    assert owner == "example 644"
    assert_large_upload_is_served(operator, editor)
    assert_browser_shows_the_site(operator.door)
    assert_root_files(operator)
    if len(cluster.tier("media")) > 1:
        assert_no_trick_gets_a_file(operator)


def test_answers_are_whole_or_cut(operator: Operator) -> None:
    """Every method, body and kind of answer that WSGI has; failures that no client takes for whole."""
    assert_wsgi_is_kept(operator)


def test_build_leaves_nothing_behind(operator: Operator) -> None:
    """
    A package of the project's own is there, no process of its build, and no file but root's.

    It was built by an account that serves nothing.

    Nor is a file of secrets, and nobody but root and the site's account looks into a release.
    """
    for host in operator.cluster().tier("web"):
        ask = "from shared import BY, WORD; print(WORD, BY)"
        python = "/srv/example/current/venv/bin/python"
        assert (
            operator.ask(host.name, f"runuser -u example -- {python} -c '{ask}'")
            == "shared tierstack-build"
        )
        assert operator.on(host.name, "pgrep -x sleep -a | grep 54321").out == ""
        releases = "/srv/example/releases"
        assert operator.ask(host.name, f"stat -c '%U %G %a' {releases}") == "root example 750"
        assert operator.ask(host.name, f"find {releases} -not -user root") == ""
        assert operator.ask(host.name, f"find {releases} -name '.env*'") == ""
        assert operator.on(host.name, f"runuser -u nobody -- ls {releases}").status != 0


def test_own_answers_are_hidden(operator: Operator) -> None:
    """The answers by which balancers judge nodes are for no visitor; a node that hides them is up."""
    assert_own_answers_are_hidden(operator.door)


def test_every_balancer_lets_visitors_in(operator: Operator) -> None:
    """Whichever address the name service gives a visitor, the site is there."""
    cluster = operator.cluster()
    said = operator.tierstack("check", str(operator.inventory)).out
    for balancer in cluster.tier("balancer"):
        assert operator.door_of(balancer).ask("/").status == 200
        assert balancer.address in said.partition("DNS: ")[2]


def test_strangers_reach_nothing_else(operator: Operator) -> None:
    """A host that is web server, balancer and cache at once keeps the latter's port to itself."""
    cluster = operator.cluster()
    for host in cluster.hosts:
        open_to_all = {hole.port for hole in cluster.openings(host) if hole.peers is None}
        shut = {listener.port for listener in listeners(cluster, host)} - open_to_all
        for port in shut:
            with pytest.raises(TimeoutError):
                socket.create_connection((host.address, port), timeout=0.5)


def test_second_run_changes_nothing(operator: Operator) -> None:
    """Twice is the test of once; and `status` finds every tier of every host well."""
    assert_nothing_changed(operator.deploy())
    said = operator.tierstack("status", str(operator.inventory))
    assert said.status == 0, said.out
    lines = {tuple(line.split()[:2]) for line in said.out.splitlines()}
    assert lines >= {(tier, host.name) for host in operator.cluster().hosts for tier in host.tiers}


def test_settings_of_headers_leave_pages_whole(operator: Operator) -> None:
    """Each setting by which a module or a header comes or goes: types, statuses, cookies, headers."""
    assert_pages_are_whole_with_other_settings(operator)
