"""A standby stays away: the primary goes on, and the next run rebuilds it (patroni#1941)."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.operator import BIN, ROOT, Operator, assert_nothing_changed, wait_until
from tests.visitor import steady_visitor

DATA = "/var/lib/postgresql/15/main"
STAGE = "/var/lib/postgresql/15/.tierstack-new"
SEGMENT_MB = 16
KEPT = "db = dict(slot_keep_mb=64)\n\n"
STOP, START = "systemctl stop postgresql@15-main", "systemctl start postgresql@15-main"


@pytest.fixture
def away(operator: Operator) -> Iterator[Operator]:
    """An operator whose primary keeps 64 MiB of WAL for a standby, whose server is stopped."""
    operator.edit("sites = [", KEPT + "sites = [", "group_data/all.py")
    operator.deploy_well()
    operator.ask("db2", STOP)
    yield operator
    operator.on("db2", f"umount -l /var/lib/postgresql; rm -rf {DATA}.aside-*")


def test_standby_that_was_away_too_long_is_rebuilt(away: Operator) -> None:
    """
    The primary drops what the standby lacks, and serves; status tells; runs bring the standby back.

    The standby's disk has no room for two copies, and its first rebuilding is killed. Then what lies
    on another of its disks has been written to: it is moved aside, and its row can be read.
    """
    operator = away
    with steady_visitor(operator.door, "/status.json") as seen:
        written_mb = write_wal(operator, segments=30)
        assert wal_mb(operator) < written_mb * 2 / 3
    assert seen.requests > 20
    assert seen.failed == []
    assert sign(operator, "while db2 was away") == 201
    assert_loss_is_told(operator)

    give_small_disk(operator)
    (steps,) = [host["steps"] for host in planned(operator)["hosts"] if host["host"] == "db2"]
    assert re.fullmatch(
        r"rebuilds the standby on db2: its primary no longer has the WAL that it lacks; copies \d+ MiB"
        r" from db1; the old copy is deleted first, as there is no room for both",
        steps[0]["notes"][0],
    )
    change_replication_password(operator)
    kill_rebuilding(operator)
    assert operator.on("db2", f"test -e {DATA}").status == 1, "it was not cut off half-way"
    operator.deploy_well()
    wait_for_row(operator, "while db2 was away")
    assert operator.tierstack("status", str(operator.inventory)).status == 0

    operator.ask("db2", f"{STOP}; umount /var/lib/postgresql; rm {DATA}/standby.signal; {START}")
    sql(operator, "db2", "postgres", "create table mine as select 'nowhere else' as row")
    refused = operator.deploy()
    assert "db1 and db2 are both primaries of the same database (timeline " in refused.err
    operator.ask("db2", f"{STOP}; runuser -u postgres -- touch {DATA}/standby.signal")
    operator.edit(KEPT, "", "group_data/all.py")
    done = operator.deploy_well()
    aside = operator.ask("db2", f"ls -d {DATA}.aside-*")
    assert f"what it holds is moved to {aside}\n" in done.err
    assert "nowhere else" in read_by_hand(operator, aside)
    wait_for_row(operator, "while db2 was away")

    # The log of one that was written to may end before its primary's, as that of a good copy does.
    operator.ask("db2", f"{STOP}; rm {DATA}/standby.signal; {START}")
    sql(operator, "db2", "postgres", "create table ours as select 'here alone' as row")
    operator.ask("db2", f"{STOP}; runuser -u postgres -- touch {DATA}/standby.signal; {START}")
    further = "select pg_logical_emit_message(false, 'x', 'y'); select pg_switch_wal()"
    sql(operator, "db1", "postgres", further)
    done = operator.deploy_well()
    assert "rebuilds the standby on db2: it holds writes that its primary does not have" in done.err
    wait_for_row(operator, "while db2 was away")
    assert_nothing_changed(operator.deploy())
    assert operator.tierstack("status", str(operator.inventory)).status == 0


def sql(operator: Operator, host: str, database: str, statements: str) -> str:
    """Return what SQL prints on a host."""
    return operator.ask(host, f"runuser -u postgres -- psql -XqAt {database}", given=statements)


def sign(operator: Operator, message: str) -> int:
    """Sign the guestbook; return the status."""
    headers = {"Content-Type": "text/plain"}
    return operator.door.ask("/guestbook.json", "POST", message.encode(), headers).status


def wait_for_row(operator: Operator, message: str) -> None:
    """A row of the guestbook is on db2, which is a standby."""
    query = f"select pg_is_in_recovery(), count(*) from guestbook_entry where message = '{message}'"
    wait_until("the row is on db2", lambda: sql(operator, "db2", "example", query) == "t|1")


def write_wal(operator: Operator, segments: int) -> int:
    """Fill WAL on the primary, with a checkpoint every few segments; return how much, in MiB."""
    switch = "select pg_logical_emit_message(false, 'x', 'y'); select pg_switch_wal();"
    for _ in range(segments // 5):
        sql(operator, "db1", "postgres", f"{switch * 5} checkpoint;")
    return segments * SEGMENT_MB


def wal_mb(operator: Operator) -> int:
    """Return what the primary's WAL takes on its disk, in MiB."""
    return int(operator.ask("db1", f"du -sm {DATA}/pg_wal").split()[0])


def assert_loss_is_told(operator: Operator) -> None:
    """Status names the lost standby, since when, and what to type; in both forms."""
    shown = operator.tierstack("status", str(operator.inventory))
    told = operator.tierstack("status", "--json", str(operator.inventory))
    assert (shown.status, told.status) == (1, 1)
    (primary,) = [node for node in json.loads(told.out) if node["host"] == "db1"]
    today = operator.ask("db1", "date -u +%Y-%m-%d")
    assert primary["notes"].startswith(f"db2 is lost since {today[:7]}")
    assert primary["notes"].endswith(
        " UTC: it was away for more than 64 MiB of WAL (db.slot_keep_mb); no row is lost; bring it"
        f" up, then type: pyinfra {operator.inventory} deploy.py, which rebuilds it"
    )
    assert "db2 is lost since" in " ".join(shown.out.split())


def give_small_disk(operator: Operator) -> None:
    """Move the standby's data to a disk with not quite enough room for another copy beside it."""
    sql(operator, "db1", "postgres", "checkpoint")  # Old WAL goes now, not between here and there.
    here, there = (int(operator.ask(host, f"du -sm {DATA}").split()[0]) for host in ("db2", "db1"))
    operator.ask(
        "db2",
        "cp -a /var/lib/postgresql /var/tmp/copied"
        f" && mount -t tmpfs -o size={here + there - 20}m none /var/lib/postgresql"
        " && cp -a /var/tmp/copied/. /var/lib/postgresql && rm -r /var/tmp/copied",
    )


def planned(operator: Operator) -> dict[str, Any]:
    """Return what `tierstack plan` says."""
    done = operator.tierstack("plan", "--json", str(operator.inventory))
    assert done.status == 2, done.said
    plan: dict[str, Any] = json.loads(done.out)
    return plan


def change_replication_password(operator: Operator) -> None:
    """Write another password for replication into the secrets file."""
    file = operator.inventory.with_suffix(".secrets.toml")
    lines = file.read_text(encoding="utf-8").splitlines()
    changed = [
        'replication_password = "another-one"' if line.startswith("replication_password") else line
        for line in lines
    ]
    assert changed != lines
    file.write_text("\n".join(changed) + "\n", encoding="utf-8")


def kill_rebuilding(operator: Operator) -> None:
    """Take away the run, and what it has started on the standby, while the copy is being made."""
    # Held up, so that the kill meets it half-way.
    operator.ask(
        "db2",
        "systemd-run -q sh -c 'until pkill -STOP -x pg_basebackup; do sleep 0.01; done;"
        " touch /run/caught'",
    )
    command = [str(BIN / "pyinfra"), str(operator.inventory), "deploy.py", "-y"]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(
        command, cwd=ROOT, start_new_session=True, stdout=quiet, stderr=quiet
    ) as run:
        try:
            wait_until(
                "the copy is being made",
                lambda: operator.on("db2", "test -e /run/caught").status == 0,
            )
        finally:
            os.killpg(run.pid, signal.SIGKILL)
    operator.ask("db2", "pkill -KILL -x pg_basebackup; pkill -KILL -x python3; rm /run/caught")
    operator.ask("db2", f"test -e {STAGE}/made-by-tierstack")


def read_by_hand(operator: Operator, directory: str) -> str:
    """Return the row of a data directory that no server runs on."""
    options = (
        f"-c data_directory={directory} -c config_file=/etc/postgresql/15/main/postgresql.conf"
    )
    return operator.ask(
        "db2",
        f"rm {directory}/standby.signal; cd /; runuser -u postgres --"
        f" /usr/lib/postgresql/15/bin/postgres --single {options} postgres",
        given="select * from mine\n",
    )
