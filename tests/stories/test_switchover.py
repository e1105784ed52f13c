"""The primary moves to its standby and back: visitors wait for a moment, nothing acknowledged is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.operator import BIN, ROOT, Deploy, Operator, assert_nothing_changed, wait_until
from tests.visitor import steady_visitor, steady_writer
from tierstack.operations.remote import program

TASK = "tasks/switchover.py"
DATA = "/var/lib/postgresql/15/main"
STOP, START = "systemctl stop postgresql@15-main", "systemctl start postgresql@15-main"


@pytest.fixture(autouse=True)
def _as_found(operator: Operator) -> Iterator[None]:
    """Every story ends with db1 as the primary, db2 behind it, and nothing to change."""
    yield
    as_found = {"db1": "primary", "db2": "standby"}
    wait_until("both answer as before", lambda: roles(operator) == as_found)
    assert_nothing_changed(operator.deploy())
    assert operator.tierstack("status", str(operator.inventory)).status == 0


def test_primary_moves_and_comes_back(operator: Operator) -> None:
    """Under readers and writers, there and back: none fails, and all rows are there at the end."""
    with (
        steady_visitor(operator.door, "/", per_second=20) as readers,
        steady_writer(operator.door, pause_s=0.05) as written,
    ):
        for to, other in (("db2", "db1"), ("db1", "db2")):
            done = switch_over(operator, to)
            assert done.status == 0, done.said[-6000:]
            print(next(line for line in done.err.splitlines() if "nobody could write" in line))
            assert roles(operator) == {to: "primary", other: "standby"}
            assert slots(operator, other) == []
            assert operator.on(other, f"test -s {DATA}/standby.signal").status == 1
            assert_nothing_changed(operator.deploy())
            assert operator.tierstack("status", str(operator.inventory)).status == 0
    print(f"slowest read: {readers.slowest_s:.1f} s; writes: {len(written.acknowledged)}")
    assert readers.requests > 100
    assert readers.failed == []
    assert written.failed == []
    assert len(written.acknowledged) > 50
    assert written.acknowledged <= rows(operator, "db1")
    wait_until("the standby has them", lambda: written.acknowledged <= rows(operator, "db2"))


def test_primary_is_not_moved_where_it_cannot_be(operator: Operator) -> None:
    """Each refusal says why and what to type; nothing was changed, nobody waits."""
    with steady_writer(operator.door) as written:
        already = switch_over(operator, "db1")
        assert_nothing_changed(already)
        assert "db1 is the primary already; nothing was changed" in already.err
        assert "no host is named; add --data to=HOST, one of db2" in refusal(operator, "")
        assert '"db9" is no db host; add --data to=HOST, one of db2' in refusal(operator, "db9")
        part = refusal(operator, "db2", "--limit", "db")
        assert "web1 has no part in this run; run it without --limit" in part

        operator.ask("db2", STOP)
        assert "PostgreSQL on db2 does not answer; nothing was changed." in refusal(operator, "db2")
        operator.ask("db2", START)
        wait_until("db2 streams", lambda: "streaming" in receiver(operator))
        sql(operator, "db2", "select pg_wal_replay_pause()")
        filler = "create table filler as select repeat('x', 1000) from generate_series(1, 100000)"
        sql(operator, "db1", filler)
        assert "MiB behind db1, and visitors would wait for it" in refusal(operator, "db2")
        sql(operator, "db2", "select pg_wal_replay_resume()")
        sql(operator, "db1", "drop table filler")
    assert written.failed == []


def test_standby_that_cannot_be_promoted_stays_one(operator: Operator) -> None:
    """The old primary has made way already, and is the primary again; nothing acknowledged is lost."""
    with (
        promotion(operator, "echo no >&2; exit 1"),
        steady_writer(operator.door, pause_s=0.05) as written,
    ):
        failed = switch_over(operator, "db2")
    assert failed.status == 1
    assert (
        "db2: no; db1 is the primary again, and no write is lost; type again: pyinfra"
        f" {operator.inventory} {TASK} --data to=db2\n"
    ) in failed.err
    assert written.failed == []
    assert written.acknowledged <= rows(operator, "db1")
    assert slots(operator, "db2") == []
    wait_until("db2 streams again", lambda: "streaming" in receiver(operator))


def test_killed_switchover_is_finished_by_the_next(operator: Operator) -> None:
    """The run dies when the old primary has made way, and the new one is not promoted yet."""
    command = [str(BIN / "pyinfra"), str(operator.inventory), TASK, "-y", "--data", "to=db2"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with (
        promotion(operator, "exec sleep 600"),
        steady_writer(operator.door, pause_s=0.05) as written,
        subprocess.Popen(command, cwd=ROOT, start_new_session=True, **quiet) as run,  # type: ignore[call-overload]
    ):
        try:
            way = f"test -s {DATA}/standby.signal"
            wait_until("db1 has made way", lambda: operator.on("db1", way).status == 0)
        finally:
            os.killpg(run.pid, signal.SIGKILL)
    refused = operator.deploy()
    assert refused.status == 1
    assert (
        "db1 made way for db2 in a switchover that did not end, and nobody is the primary now;"
        f" nothing was changed. Type: pyinfra {operator.inventory} {TASK} --data to=db2;"
    ) in refused.err
    assert refused.results == {}
    assert operator.tierstack("status", str(operator.inventory)).status == 1
    for to in ("db2", "db1"):
        done = switch_over(operator, to)
        assert done.status == 0, done.said[-6000:]
    assert written.acknowledged <= rows(operator, "db1")


def test_primary_that_was_only_stopped_comes_back_by_itself(operator: Operator) -> None:
    """The run died before anybody had made way: a second one finishes it; without one, it starts again."""
    stop = program("postgres_agent.py", {"verb": "stop", "patience_s": 10, "back_s": 20})
    operator.ask("db1", "python3 -", given=stop)
    done = switch_over(operator, "db2")
    assert done.status == 0, done.said[-6000:]
    assert roles(operator) == {"db1": "standby", "db2": "primary"}
    assert switch_over(operator, "db1").status == 0
    operator.ask("db1", "python3 -", given=stop)
    wait_until("db1 is back", lambda: operator.door.ask("/guestbook.json").status == 200)
    wait_until("db2 streams again", lambda: "streaming" in receiver(operator))


def test_two_primaries_are_left_alone(operator: Operator) -> None:
    """Neither a deploy nor a switchover touches a host when two believe that they are primary."""
    operator.ask("db2", "pg_ctlcluster 15 main promote")
    files = (
        f"systemctl show -p MainPID postgresql@15-main; ls {DATA};"
        " find /etc/postgresql -type f | sort | xargs sha256sum"
    )
    before = [operator.ask(host, files) for host in ("db1", "db2")]
    for refused in (operator.deploy(), switch_over(operator, "db2")):
        assert refused.status == 1
        assert "db1 and db2 are both primaries of the same database" in refused.err
    assert [operator.ask(host, files) for host in ("db1", "db2")] == before
    operator.ask("db2", f"{STOP}; mv {DATA} {DATA}.old")
    operator.deploy_well()
    operator.ask("db2", f"rm -r {DATA}.old")


@contextmanager
def promotion(operator: Operator, instead: str) -> Iterator[None]:
    """Have a shell command stand in for the promotion of db2."""
    shim = (
        "#!/bin/sh\nsaid=$(cat)\n"
        f'case "$said" in *pg_promote*) {instead} ;; esac\n'
        'printf \'%s\' "$said" | exec /usr/bin/psql "$@"\n'
    )
    path = "/usr/local/bin/psql"
    operator.ask("db2", f"cat > {path} && chmod 755 {path}", given=shim)
    try:
        yield
    finally:
        operator.ask("db2", f"rm {path}")


def switch_over(operator: Operator, to: str, *arguments: str) -> Deploy:
    """Type the task."""
    named = ("--data", f"to={to}") if to else ()
    return operator.run_file(TASK, *named, *arguments)


def refusal(operator: Operator, to: str, *arguments: str) -> str:
    """Type the task, which refuses; return what it says."""
    done = switch_over(operator, to, *arguments)
    assert done.status == 1, done.said[-6000:]
    assert done.results == {}
    return done.err


def sql(operator: Operator, host: str, statement: str, database: str = "postgres") -> str:
    """Return what SQL prints on a host."""
    return operator.ask(host, f"runuser -u postgres -- psql -XqAt {database}", given=statement)


def rows(operator: Operator, host: str) -> set[int]:
    """Return the ids of the guestbook's entries that a host has."""
    return {
        int(row) for row in sql(operator, host, "select id from guestbook_entry", "example").split()
    }


def slots(operator: Operator, host: str) -> list[str]:
    """Return the replication slots of a host."""
    return sql(operator, host, "select slot_name from pg_replication_slots").split()


def receiver(operator: Operator) -> str:
    """Return whether db2 streams."""
    return sql(operator, "db2", "select status from pg_stat_wal_receiver")


def roles(operator: Operator) -> dict[str, str]:
    """Return what `tierstack status` says that the db hosts are."""
    nodes = json.loads(operator.tierstack("status", "--json", str(operator.inventory)).out)
    return {node["host"]: node["state"] for node in nodes if node["tier"] == "db"}
