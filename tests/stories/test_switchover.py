"""The primary moves to its standby and back: visitors wait for a moment, nothing acknowledged is lost."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.operator import BIN, ROOT, Deploy, Operator, assert_nothing_changed, wait_until
from tests.visitor import steady_visitor, steady_writer

TASK = "tasks/switchover.py"
DATA = "/var/lib/postgresql/15/main"
STOP, START = "systemctl stop postgresql@15-main", "systemctl start postgresql@15-main"


@pytest.fixture(autouse=True, scope="module")
def _as_found(operator: Operator) -> Iterator[None]:
    """The stories leave nothing to change behind."""
    yield
    assert_nothing_changed(operator.deploy())
    assert operator.tierstack("status", str(operator.inventory)).status == 0


@pytest.fixture(autouse=True)
def _same_primary(operator: Operator, _as_found: None) -> Iterator[None]:
    """Every story ends with db1 as the primary, and db2 behind it."""
    yield
    wait_until("db2 streams", lambda: "streaming" in receiver(operator))
    assert recovery(operator) == {"db1": "f", "db2": "t"}


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
            states = {name: node["state"] for name, node in nodes(operator, status=0).items()}
            assert states == {to: "primary", other: "standby"}
            assert slots(operator, other) == []
            assert operator.on(other, f"test -s {DATA}/standby.signal").status == 1
            assert_nothing_changed(operator.deploy())
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
    wait_until("no WAL is kept on db2", lambda: slots(operator, "db2") == [])
    wait_until("db2 streams again", lambda: "streaming" in receiver(operator))


def test_killed_switchover_is_finished_by_the_next(operator: Operator) -> None:
    """The run dies when the old primary has made way, and the new one is not promoted yet."""
    with (
        promotion(operator, "exec sleep 600"),
        steady_writer(operator.door, pause_s=0.05) as written,
        begun(operator, "db2") as run,
    ):
        way = f"test -s {DATA}/standby.signal"
        wait_until("db1 has made way", lambda: operator.on("db1", way).status == 0)
        run.kill()
    refused = operator.deploy()
    assert refused.status == 1
    finish = f"pyinfra {operator.inventory} {TASK} --data to=db2"
    assert (
        "db1 made way for db2 in a switchover that did not end, and nobody is the primary now;"
        f" nothing was changed. Type: {finish};"
    ) in refused.err
    assert refused.results == {}
    told = "it made way for db2 in a switchover that did not end; type: "
    assert nodes(operator, status=1)["db1"]["notes"] == told + finish
    for to in ("db2", "db1"):
        done = switch_over(operator, to)
        assert done.status == 0, done.said[-6000:]
    assert written.acknowledged <= rows(operator, "db1")


def test_primary_that_was_only_stopped_comes_back_by_itself(operator: Operator) -> None:
    """The run dies before anybody has made way: a second one finishes it; without one, all is as before."""
    with stopped(operator, "db1", "db2") as run:
        run.kill()
    done = switch_over(operator, "db2")
    assert done.status == 0, done.said[-6000:]
    assert recovery(operator) == {"db1": "t", "db2": "f"}
    with stopped(operator, "db2", "db1") as run:
        run.kill()
        assert sign(operator) == 201
    assert recovery(operator) == {"db1": "t", "db2": "f"}
    wait_until("db1 streams again", lambda: "streaming" in receiver(operator, "db1"))
    assert switch_over(operator, "db1").status == 0


def test_next_primary_loses_power_while_visitors_wait(operator: Operator) -> None:
    """The old one is it again, visitors get their answers; the same command ends it after a reboot."""
    with steady_writer(operator.door, pause_s=0.05) as written:
        wait_until("rows are written", lambda: written.acknowledged)
    with stopped(operator, "db1", "db2") as run:
        operator.lab("kill", "db2")
        assert sign(operator) == 201
        said = run.communicate(timeout=120)[1]
        operator.lab("start", "db2")
    assert run.returncode == 1
    assert re.search(
        r"db2: .*; db1 is the primary again, and no write is lost; type again: pyinfra"
        rf" {operator.inventory} {TASK} --data to=db2\n",
        said,
    ), said[-4000:]
    assert written.acknowledged <= rows(operator, "db1")
    for to in ("db2", "db1"):
        wait_until("both have all rows", lambda: written.acknowledged <= rows(operator, "db2"))
        done = switch_over(operator, to)
        assert done.status == 0, done.said[-6000:]


def test_primary_that_comes_back_takes_no_writes(operator: Operator) -> None:
    """
    db1 dies, db2 is promoted by hand, db1 boots before anybody deploys: web hosts list it first. It
    boots again after a deploy, which has shut it out.

    It starts as a standby. Made to take writes all the same, it is named by whatever looks, though it
    is in no line of the inventory. Back in its line it follows, and no acknowledged row is missing.
    """
    line = '    lab_host("db1", 21),\n'
    former = operator.cluster().host("db1").address
    with steady_writer(operator.door, pause_s=0.05) as before:
        wait_until("rows are written", lambda: len(before.acknowledged) > 20)
    wait_until("db2 has them", lambda: before.acknowledged <= rows(operator, "db2"))
    operator.lab("kill", "db1")
    operator.edit(line, "")
    assert (
        "Or, if it is lost for good: see first that it stays off, or, where it can be reached, type on"
        f" it: {STOP}; runuser -u postgres -- touch {DATA}/standby.signal; then type on db2: {START};"
        " pg_ctlcluster 15 main promote; then deploy again\n"
    ) in operator.deploy().err
    operator.ask("db2", f"{START}; pg_ctlcluster 15 main promote")
    # A primary comes up without its standbys.
    operator.ask("db2", "systemctl restart postgresql@15-main")
    assert sql(operator, "db2", "select pg_is_in_recovery()") == "f"

    operator.lab("start", "db1")
    asks = "runuser -u postgres -- psql -XAtc 'select pg_is_in_recovery()'"
    wait_until("db1 is up", lambda: operator.on_address(former, asks).status == 0)
    assert operator.on_address(former, asks).out == "t\n"
    told = operator.on_address(former, "journalctl -u postgresql@15-main -o cat").out
    assert (
        f"db2 is the primary on timeline {timeline(operator, 'db2')}, and this host was the primary on"
    ) in told
    # New workers ask db1 first.
    for host in operator.cluster().tier("web"):
        operator.ask(host.name, "systemctl restart apache2")
    wait_until("pages are back", lambda: operator.door.ask("/guestbook.json").status == 200)
    with steady_writer(operator.door, pause_s=0.05) as after:
        wait_until("rows are written", lambda: len(after.acknowledged) > 20)
    assert after.failed == []
    assert after.acknowledged <= rows(operator, "db2")

    config = "/etc/postgresql/15/main/postgresql.conf"
    start = f"/usr/lib/postgresql/15/bin/pg_ctl start -D {DATA} -o '-c config_file={config}'"
    by_hand = f"{STOP}; rm {DATA}/standby.signal; cd /; runuser -u postgres -- {start} >/dev/null"
    assert operator.on_address(former, by_hand).status == 0
    refused = operator.deploy()
    assert refused.status == 1
    assert f"{former} is no db host of this inventory, takes writes of the same" in refused.err
    assert refused.results == {}
    assert operator.tierstack("plan", str(operator.inventory)).status == 1
    assert nodes(operator, status=1)["db2"]["notes"].startswith(f"{former} takes writes as well,")
    # It dies, and boots once more after a deploy, by which db2's firewall knows it no more.
    operator.lab("kill", "db1")
    operator.deploy_well()
    operator.lab("start", "db1")
    says = "journalctl -u postgresql@15-main -o cat"
    out = "db2 is up, and lets this host ask its PostgreSQL no more"
    wait_until("db1 steps down", lambda: out in operator.on_address(former, says).out)
    # With writes of its own it cannot even start as a standby.
    assert operator.on_address(former, asks).out != "f\n"

    operator.edit('    lab_host("db2"', line + '    lab_host("db2"')
    operator.deploy_well()
    assert switch_over(operator, "db1").status == 0
    assert before.acknowledged | after.acknowledged <= rows(operator, "db1")
    operator.ask("db1", f"ls -d {DATA}.aside-* && rm -r {DATA}.aside-*")


def timeline(operator: Operator, host: str) -> int:
    """Return the timeline that a primary writes."""
    log = sql(operator, host, "select substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)")
    return int(log, 16)


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
    with met(operator, "db2", f"*pg_promote*) {instead} ;;"):
        yield


@contextmanager
def stopped(operator: Operator, old: str, to: str) -> Iterator[subprocess.Popen[str]]:
    """Yield a switchover that has stopped the old primary, and is held up before it makes way."""
    # It is asked for a checkpoint, and then whether it has what the old one wrote last.
    mark = "/tmp/asked"
    second = f"*CHECKPOINT*) touch {mark} ;; *replay_lsn*) [ ! -e {mark} ] || exec sleep 600 ;;"
    with met(operator, to, second), begun(operator, to) as run:
        gone = f"test -e {DATA}/postmaster.pid"
        wait_until(f"{old} has stopped", lambda: operator.on(old, gone).status == 1)
        yield run
    operator.ask(to, f"rm -f {mark}")


@contextmanager
def met(operator: Operator, host: str, cases: str) -> Iterator[None]:
    """Have something else happen when a host is told SQL that fits one of a shell's cases."""
    shim = (
        f'#!/bin/sh\nsaid=$(cat)\ncase "$said" in {cases} esac\n'
        'printf \'%s\' "$said" | exec /usr/bin/psql "$@"\n'
    )
    path = "/usr/local/bin/psql"
    operator.ask(host, f"cat > {path} && chmod 755 {path}", given=shim)
    try:
        yield
    finally:
        operator.on(host, f"rm {path}")


@contextmanager
def begun(operator: Operator, to: str) -> Iterator[subprocess.Popen[str]]:
    """Yield a switchover that has been started, and that a signal ends at once, as the last thing."""
    command = [str(BIN / "pyinfra"), str(operator.inventory), TASK, "-y", "--data", f"to={to}"]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, **pipes) as run:  # type: ignore[call-overload]
        try:
            yield run
        finally:
            run.kill()


def sign(operator: Operator) -> int:
    """Sign the guestbook, however long that takes; return the status."""
    return operator.door.ask("/guestbook.json", "POST", b"I waited.", timeout_s=60).status


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


def receiver(operator: Operator, host: str = "db2") -> str:
    """Return whether a host streams."""
    return sql(operator, host, "select status from pg_stat_wal_receiver")


def recovery(operator: Operator) -> dict[str, str]:
    """Return which of the db hosts is a standby, "t", and which is not."""
    return {host: sql(operator, host, "select pg_is_in_recovery()") for host in ("db1", "db2")}


def nodes(operator: Operator, status: int) -> dict[str, dict[str, Any]]:
    """Return what `tierstack status` says of each db host; its exit status must be this."""
    done = operator.tierstack("status", "--json", str(operator.inventory))
    assert done.status == status, done.said
    return {node["host"]: node for node in json.loads(done.out) if node["tier"] == "db"}
