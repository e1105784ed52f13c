"""The tiers reach each other: where services listen, what passes between them, what a limited run leaves."""

from __future__ import annotations

import pytest

from tests.operator import Operator, assert_nothing_changed, wait_until


def test_services_listen_on_their_cluster_address_only(operator: Operator) -> None:
    """No service of a data tier listens on every address."""
    for host, port in (("db1", 5432), ("cache1", 11211), ("media1", 8081), ("web1", 8080)):
        address = operator.cluster().host(host).address
        listening = operator.ask(host, f"ss -Hltn 'sport = :{port}' | awk '{{print $4}}' | sort")
        assert set(listening.split()) <= {f"{address}:{port}", f"127.0.0.1:{port}", f"[::1]:{port}"}
        assert f"{address}:{port}" in listening


_GREETED = """
import socket
waiting = [socket.create_connection(("{address}", {port}), 5) for _ in range(60)]
print(sum(one.recv(4) == b"SSH-" for one in waiting))
"""


def test_all_web_hosts_may_mount_at_once(operator: Operator) -> None:
    """The export turns nobody away while many have connected and not yet logged in."""
    cluster = operator.cluster()
    if cluster.settings.media.share != "sshfs":
        pytest.skip("MEDIA_ROOT is shared over NFS here")
    export = {"address": cluster.media_home.address, "port": cluster.settings.media.share_port}
    assert operator.ask("web1", "python3 -", given=_GREETED.format(**export)) == "60"


def test_row_written_on_the_primary_is_read_on_the_standby(operator: Operator) -> None:
    """Replication: a row of a visitor is on the standby a moment later."""
    answer = operator.door.ask(
        "/guestbook.json", "POST", b"to be replicated", {"Content-Type": "text/plain"}
    )
    assert answer.status == 201, answer.text
    query = (
        "runuser -u postgres -- psql -At example -c"
        " \"select pg_is_in_recovery(), count(*) from guestbook_entry where message = 'to be replicated'\""
    )
    wait_until("the row is on db2", lambda: operator.ask("db2", query) == "t|1", 20)


def test_database_takes_no_clear_text_and_no_stranger(operator: Operator) -> None:
    """The web hosts' connections are encrypted, and only the site's role may connect to its database."""
    rules = operator.ask("db1", "cat $(runuser -u postgres -- psql -At -c 'show hba_file')")
    remote = [line for line in rules.splitlines() if line.startswith("host")]
    assert remote
    assert all(line.startswith("hostssl") and "scram-sha-256" in line for line in remote)
    assert (
        operator.door.ask("/status.json").status == 200
    )  # Workers keep its connection for a minute.
    encrypted = operator.ask(
        "db1",
        'runuser -u postgres -- psql -At -c "select bool_and(ssl) from pg_stat_ssl'
        " join pg_stat_activity using (pid) where usename = 'example'\"",
    )
    assert encrypted == "t"


def test_dead_cache_host_fails_no_request(operator: Operator) -> None:
    """One of two cache hosts falls silent: pages go on, a little slower at most (python-memcached#88)."""
    operator.lab("cut", "cache2")
    try:
        seen = [operator.door.ask("/status.json") for _ in range(50)]
        assert [answer.status for answer in seen] == [200] * 50
        assert max(answer.seconds for answer in seen) < 5
        said = operator.tierstack("status", str(operator.inventory))
        assert said.status == 1
        assert "cache2" in said.out
    finally:
        operator.lab("heal", "cache2")


def test_limited_run_serves_no_release_without_its_static_files(operator: Operator) -> None:
    """A new release for the web hosts alone is refused; nothing that serves changes."""
    styles = "example/src/static/css/site.css"
    operator.edit("{", "{ /* new */", styles)
    done = operator.deploy("--limit", "web")
    operator.edit("{ /* new */", "{", styles)
    assert done.status != 0
    assert (
        "web1: this release is new, and media1, which serves its static files, has no part in this"
        " run; deploy without --limit, or with --limit media1 as well"
    ) in done.err
    assert operator.door.ask("/").status == 200
    operator.deploy_well()  # Forgets the settings that were laid out for it.
    assert_nothing_changed(operator.deploy())
