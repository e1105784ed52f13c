"""From plain hosts to a site that serves, and what a visitor sees of it."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

from tests.browser import Browser
from tests.look import (
    assert_admin_is_whole,
    assert_own_answers_are_hidden,
    assert_pages_are_whole,
    static_file,
)
from tests.operator import Operator, assert_nothing_changed, wait_until
from tests.stories.conftest import asgiref
from tests.uploads import log_in, upload
from tests.visitor import Door


def test_page_shows_database_cache_and_every_node(operator: Operator) -> None:
    """A page shows rows and a cached value; several fetches show all web nodes."""
    seen = [operator.door.ask("/status.json") for _ in range(12)]
    assert [answer.status for answer in seen] == [200] * 12, seen[0]
    pages = [answer.body for answer in seen]
    assert {
        node
        for node in ("web1", "web2", "web3")
        if any(f'"{node}"'.encode() in page for page in pages)
    } == {
        "web1",
        "web2",
        "web3",
    }
    assert all(b'"articles": 3' in page and b'"postgresql"' in page for page in pages)
    cached = {page.partition(b'"cached": ')[2].partition(b"}")[0] for page in pages}
    assert len(cached) == 1, "the cached value differs from node to node"


def test_packages_are_the_same_on_every_node(operator: Operator) -> None:
    """Where an index has given one host an older version than the others, these get that one too."""
    versions = {asgiref(operator, node) for node in ("web1", "web2", "web3")}
    assert len(versions) == 1, versions


def test_http_leads_to_https(operator: Operator) -> None:
    """http redirects once, to the same page over https."""
    door = operator.door
    answer = Door(door.address, door.domain, tls=False).ask("/articles/?a=1")
    assert (answer.status, answer["location"]) == (301, f"https://{door.domain}/articles/?a=1")


@pytest.fixture(scope="module")
def editor(operator: Operator) -> Browser:
    """An editor who has logged in to the admin."""
    return log_in(operator)


def test_pages_are_whole(operator: Operator, editor: Browser) -> None:
    """Pages, JSON, errors, redirects and the admin's JavaScript: each has its type, and all of it."""
    assert_pages_are_whole(operator.door)
    assert_admin_is_whole(editor)


def test_own_answers_are_hidden(operator: Operator) -> None:
    """The answers by which balancers judge nodes are for no visitor; a node that hides them is up."""
    assert_own_answers_are_hidden(operator.door)


@pytest.mark.parametrize("name", ["plain.png", "déjà reçu 日本 n°1.png"])
def test_upload_is_served_by_lighttpd(operator: Operator, editor: Browser, name: str) -> None:
    """An image uploaded in the admin is served by lighttpd, whatever its name (django-private-storage#69)."""
    url, served = upload(operator, editor, name)
    etag = served["etag"]
    assert operator.door.ask(url, headers={"If-None-Match": etag}).status == 304
    assert operator.door.ask(url, headers={"Range": "bytes=0-3"}).body == served.body[:4]
    assert operator.door.ask(url.rpartition("/")[0] + "/").status in (403, 404), "a listing"
    owner = operator.ask("media1", "stat -c '%U %a' /srv/example/media/articles/*.png | sort -u")
    assert owner == "example 644"


def test_static_files_are_hashed_and_cached_for_long(operator: Operator) -> None:
    """Pages name hashed static files; browsers may keep them for a year."""
    page = operator.door.ask("/").text
    url = static_file(page)
    served = operator.door.ask(url)
    assert served.status == 200
    assert "lighttpd" in served["server"]
    assert "immutable" in served["cache-control"]


def test_chunked_body_is_never_cut(operator: Operator) -> None:
    """A chunked upload arrives whole, or is refused clearly (mod_wsgi#312)."""
    parts = itertools.repeat(b"x" * 100, 3)
    answer = operator.door.ask(
        "/guestbook.json", "POST", parts, {"Transfer-Encoding": "chunked"}, chunked=True
    )
    assert answer.status in (201, 411, 413)
    if answer.status == 201:
        newest = operator.ask(
            "db1",
            "runuser -u postgres -- psql -At example -c"
            " 'select length(message) from guestbook_entry order by id desc limit 1'",
        )
        assert newest == "300"


def test_django_finds_little_to_warn_of(operator: Operator) -> None:
    """Cookies go by https only, as all pages do; what is left is HSTS, which is asked for."""
    cookies = operator.door.ask("/admin/login/").cookies
    assert all("; Secure" in cookie for cookie in cookies), cookies
    assert len(cookies) == 1
    said = operator.ask("web1", "tierstack-manage example check --deploy 2>&1")
    assert set(re.findall(r"\(([a-z]+\.[EW]\d+)\)", said)) == {"security.W004"}, said


def test_outer_address_is_not_believed(operator: Operator) -> None:
    """
    A visitor cannot pretend to have come by https, or from elsewhere.

    SECURE_SSL_REDIRECT would be fooled, and so would whatever shuts those out who guess passwords.
    """
    door = Door(operator.door.address, operator.door.domain, tls=False)
    answer = door.ask("/", headers={"X-Forwarded-Proto": "https"})
    assert answer.status == 301
    here = operator.door.address.rpartition(".")[0] + ".1"
    said = {"X-Forwarded-For": "203.0.113.5", "X-Real-IP": "203.0.113.5"}
    assert operator.door.ask("/status.json", headers=said).json()["visitor"] == here


_UNDELAYED = """
import socket
from pyinfra import host
from pyinfra.api.exceptions import PyinfraError
from pyinfra.operations import server

connection = host.connector.client.get_transport().sock
if not connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY):
    raise PyinfraError(f"{host.name} waits for acknowledgements")
server.shell(name="The file was read", commands=["true"])
"""


def test_connections_send_at_once(operator: Operator, tmp_path: Path) -> None:
    """No command waits for the acknowledgement of the one before: whatever file pyinfra runs."""
    file = tmp_path / "undelayed.py"
    file.write_text(_UNDELAYED, encoding="utf-8")
    done = operator.run_file(file)
    assert done.status == 0, done.said[-3000:]
    assert done.results["totals"]["success"] == len(operator.cluster().hosts)


def test_second_run_changes_nothing(operator: Operator) -> None:
    """Twice is the test of once."""
    assert_nothing_changed(operator.deploy())


def test_status_is_good(operator: Operator) -> None:
    """`tierstack status` has a line a node, and all are well."""
    wait_until(
        "status is good", lambda: operator.tierstack("status", str(operator.inventory)).status == 0
    )
    said = operator.tierstack("status", str(operator.inventory)).out
    for node in ("lb1", "web1", "web2", "web3", "db1", "db2", "cache1", "media1"):
        assert node in said, said
    assert "primary" in said
    assert "standby" in said


def test_nothing_changes_after_a_reboot_of_every_host(operator: Operator, editor: Browser) -> None:
    """All hosts rebooted: everything comes back by itself, and the next run changes nothing."""
    # One of them has /var on a file system of its own, which is mounted when its firewall is there.
    apart = "cp -a /var /varfs && rm -r /var/lib/tierstack && echo '/varfs /var none bind 0 0'"
    operator.ask("cache1", f"{apart} >> /etc/fstab")
    booted = "stat -c %Y /proc/1"
    hosts = [host.name for host in operator.cluster().hosts]
    before = {name: operator.ask(name, booted) for name in hosts}
    for name in hosts:
        operator.on(name, "systemctl reboot")
    for name in hosts:
        wait_until(
            f"{name} has booted again",
            lambda name=name: operator.on(name, booted).out.strip() not in ("", before[name]),  # type: ignore[misc]
        )
    wait_until(
        "status is good again",
        lambda: operator.tierstack("status", str(operator.inventory)).status == 0,
        180,
    )
    assert operator.ask("cache1", "findmnt -n -o TARGET /var") == "/var"
    assert operator.door.ask("/status.json").status == 200
    upload(operator, editor, "après le redémarrage é.png")
    assert_nothing_changed(operator.deploy())
