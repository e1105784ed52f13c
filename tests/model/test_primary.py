"""Who is the primary, and what is said when it cannot be told."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest

from tierstack.model.primary import (
    Copy,
    DataDirectory,
    PrimaryError,
    Rebuild,
    decide_primary,
    decide_rebuild,
    second_writers,
    slot_name,
)

EMPTY = DataDirectory(present=False)
PRIMARY = DataDirectory(present=True, system_id="71", timeline=1)
STANDBY = DataDirectory(present=True, standby=True, system_id="71", timeline=1)
ASIDE = "systemctl stop postgresql@15-main; mv /var/lib/postgresql/15/main /var/lib/postgresql/15/main.old"

STEP_DOWN = (
    "systemctl stop postgresql@15-main; runuser -u postgres -- touch"
    " /var/lib/postgresql/15/main/standby.signal"
)
LOST = (
    "Or, if it is lost for good: see first that it stays off, or, where it can be reached, type on"
    f" it: {STEP_DOWN}"
)

MIB = 1024**2
SEGMENT = 16 * MIB
#: A primary that was promoted once, with a database of 800 MiB; and a copy that follows it.
SOURCE = Copy(
    timeline=2,
    end=90 * SEGMENT + 500,
    oldest=60 * SEGMENT,
    asks=90 * SEGMENT,
    forks={1: 70 * SEGMENT},
    checkpoint=(2, 90 * SEGMENT + 40),
    never_made=(),
    followed=False,
    bytes=800 * MIB,
    free_bytes=2000 * MIB,
)
FOLLOWER = replace(SOURCE, end=80 * SEGMENT + 500, asks=80 * SEGMENT, followed=True)
BEHIND = replace(FOLLOWER, timeline=1, end=59 * SEGMENT + 500, asks=59 * SEGMENT)
LACKS = "its primary no longer has the WAL that it lacks"
AHEAD = "it holds writes that its primary does not have"


def refusal(found: dict[str, DataDirectory], order: list[str]) -> str:
    """Return the message of a refusal."""
    with pytest.raises(PrimaryError) as caught:
        decide_primary(found, order, "prod.py")
    return str(caught.value)


def test_first_line_decides_on_an_empty_cluster() -> None:
    """Where no host holds data, the first of the inventory becomes the primary."""
    assert decide_primary({"db2": EMPTY, "db1": EMPTY}, ["db1", "db2"], "prod.py") == "db1"


def test_missing_data_is_not_an_empty_cluster() -> None:
    """A disk that is not mounted is not made up for with an empty database under its mount point."""
    missing = DataDirectory(present=False, configured=True)
    expected = (
        "db1 has been a database host, and its data is not there; mount its disk, or, to start"
        " empty, remove /etc/postgresql/15/main on it"
    )
    assert expected == refusal({"db1": missing}, ["db1"])
    assert expected == refusal({"db1": missing, "db2": EMPTY}, ["db2", "db1"])
    expected = (
        "db1 and db2 have been database hosts, and their data is not there; mount their disks, or,"
        " to start empty, remove /etc/postgresql/15/main on them"
    )
    assert expected == refusal({"db1": missing, "db2": missing}, ["db1", "db2"])


@pytest.mark.parametrize("other", [EMPTY, STANDBY])
def test_primary_is_who_is_primary(other: DataDirectory) -> None:
    """The host that holds the data is the primary, wherever it stands in the inventory."""
    assert decide_primary({"db1": other, "db2": PRIMARY}, ["db1", "db2"], "prod.py") == "db2"


def test_single_host_needs_no_other() -> None:
    """With one db host there is nobody else to ask."""
    assert decide_primary({}, ["db1"], "prod.py") == "db1"


def test_unknown_host() -> None:
    """A db host that this run leaves out might be the primary: refused, not guessed."""
    expected = (
        "db: who is the primary cannot be told without db2 and db3, not asked in this run;"
        " nothing was changed. Run it without --limit, or with --limit db"
    )
    assert expected == refusal({"db1": PRIMARY}, ["db1", "db2", "db3"])


def test_two_primaries() -> None:
    """Two primaries are left alone, with the way to make one of them a standby."""
    promoted = DataDirectory(present=True, system_id="71", timeline=2)
    expected = (
        "db1 and db2 are both primaries of the same database (timeline 1 on db1, timeline 2 on"
        " db2); nothing was changed. Find out which one has the writes that you keep; on the other"
        f" type: {ASIDE}; then deploy again, and it becomes a standby"
    )
    assert expected == refusal({"db1": PRIMARY, "db2": promoted}, ["db1", "db2"])


def test_different_databases() -> None:
    """Two databases that are no copies of each other are left alone."""
    stranger = DataDirectory(present=True, standby=True, system_id="72", timeline=1)
    expected = (
        "db1 and db2 hold different databases (system identifier 71 on db1, system identifier 72"
        " on db2), so they cannot be one cluster; nothing was changed. Find out which one you keep;"
        f" on each host with another type: {ASIDE}; then deploy again, and it becomes a standby"
    )
    assert expected == refusal({"db1": PRIMARY, "db2": stranger}, ["db1", "db2"])


def test_unreadable_data() -> None:
    """What cannot be read as a database is not taken for an empty directory."""
    expected = (
        "db2: what lies in /var/lib/postgresql/15/main is no database that PostgreSQL 15 can read;"
        f" nothing was changed. Look at it, and if you do not need it, type there: {ASIDE}"
    )
    found = {"db1": PRIMARY, "db2": DataDirectory(present=True)}
    assert expected == refusal(found, ["db1", "db2"])


def test_standby_without_primary() -> None:
    """A standby alone is not promoted by a line that is missing in an inventory."""
    expected = (
        "db2 is a standby, and its primary is no db host of this inventory; nothing was changed."
        " Put the primary's line back; to do without it, let db2 take over then:"
        f" pyinfra prod.py tasks/switchover.py --data to=db2. {LOST}; then type on db2:"
        " systemctl start postgresql@15-main; pg_ctlcluster 15 main promote; then deploy again"
    )
    assert expected == refusal({"db2": STANDBY, "db3": EMPTY}, ["db3", "db2"])


def test_standbys_without_primary() -> None:
    """With several standbys, who is promoted must be the one that got furthest."""
    expected = (
        "db1 and db2 are standbys, and their primary is no db host of this inventory; nothing was"
        " changed. Put the primary's line back; to do without it, let one of them take over then:"
        f" pyinfra prod.py tasks/switchover.py --data to=db1. {LOST}; then type on the one with the"
        " newest writes: systemctl start postgresql@15-main; pg_ctlcluster 15 main promote; then"
        " deploy again"
    )
    assert expected == refusal({"db1": STANDBY, "db2": STANDBY}, ["db1", "db2"])


def test_unfinished_switchover() -> None:
    """Where one has made way and nobody is the primary yet, the task goes on, or back."""
    made_way = replace(STANDBY, made_way_for="db2")
    expected = (
        "db1 made way for db2 in a switchover that did not end, and nobody is the primary now;"
        " nothing was changed. Type: pyinfra prod.py tasks/switchover.py --data to=db2; or, to go"
        " back: pyinfra prod.py tasks/switchover.py --data to=db1"
    )
    assert expected == refusal({"db1": made_way, "db2": STANDBY}, ["db1", "db2"])
    promoted = {"db1": made_way, "db2": replace(PRIMARY, timeline=2)}
    assert decide_primary(promoted, ["db1", "db2"], "prod.py") == "db2"
    # Whoever is not asked may have been promoted: no way back is offered.
    assert refusal({"db1": made_way}, ["db1"]).startswith("db1 is a standby, and its primary is no")


def test_second_writer_outside_the_inventory() -> None:
    """A former primary that web hosts still use: refused, with both ways on; a standby is no harm."""
    held = replace(PRIMARY, timeline=2)
    other = {"is": "primary", "system_id": "71", "timeline": 1, "said": ""}
    said = partial(second_writers, primary="db2", held=held, webs=["web1", "web2"])
    assert said({"10.0.0.21": other}) == (
        "10.0.0.21 is no db host of this inventory, takes writes of the same database as db2"
        " (timeline 1 there, timeline 2 on db2), and web1 and web2 may write to it; nothing was"
        " changed. Find out which one has the writes that you keep. To keep those of db2, type on"
        f" 10.0.0.21: {STEP_DOWN}; then deploy again, and what it holds stays there. To keep the"
        f" other's, write its line in db, and type on db2: {ASIDE}; then deploy"
    )
    assert said({"10.0.0.21": {**other, "is": "unknown", "said": "no pg_hba.conf entry"}}) == (
        "10.0.0.21 is no db host of this inventory, and web1 and web2 may write to it; whether it"
        " takes writes, it does not say to db2 (no pg_hba.conf entry); nothing was changed. Stop"
        f" PostgreSQL there, or type on it: {STEP_DOWN}; then deploy again"
    )
    harmless = [{**other, "is": kind} for kind in ("standby", "silent", "shut", "stranger")]
    for one in (*harmless, {**other, "system_id": "72"}):
        assert said({"10.0.0.21": one}) == ""


def test_standby_ahead_of_its_primary() -> None:
    """A standby that was promoted in between holds writes that its primary lacks."""
    ahead = DataDirectory(present=True, standby=True, system_id="71", timeline=2)
    expected = (
        "db2 went further than the primary db1 (timeline 2 on db2, timeline 1 on db1), so it cannot"
        " follow it; nothing was changed. Find out which one has the writes that you keep; on the"
        f" other type: {ASIDE}; then deploy again"
    )
    assert expected == refusal({"db1": PRIMARY, "db2": ahead}, ["db1", "db2"])


def test_slot_names_fit_postgresql_and_differ() -> None:
    """Each host name has a slot name of its own that PostgreSQL takes."""
    names = ["db1", "db-1", "db.1", "db--1", "10.0.0.21", "a" * 60 + "1", "a" * 60 + "2"]
    slots = [slot_name(name) for name in names]
    assert slots[:3] == ["tierstack_db1", "tierstack_db_1", "tierstack_db__1"]
    assert len(set(slots)) == len(names)
    assert all(len(slot) <= 63 and slot.replace("_", "").isalnum() for slot in slots)


@pytest.mark.parametrize(
    "copy",
    [
        FOLLOWER,
        replace(FOLLOWER, end=SOURCE.end),
        replace(FOLLOWER, end=60 * SEGMENT, asks=60 * SEGMENT),
        replace(FOLLOWER, timeline=1, end=70 * SEGMENT, asks=70 * SEGMENT, followed=False),
    ],
    ids=["behind", "level", "at the oldest segment", "at the fork, as a primary that handed over"],
)
def test_standby_that_can_follow_is_left_alone(copy: Copy) -> None:
    """What its primary still has the WAL for is no copy less, however far behind."""
    assert decide_rebuild("db2", copy, SOURCE) is None


def test_standby_that_fell_too_far_behind_is_replaced() -> None:
    """Nothing but a copy, and its primary has no WAL for it: it is not worth keeping."""
    assert decide_rebuild("db2", BEHIND, SOURCE) == Rebuild(LACKS, keep=False)


@pytest.mark.parametrize(
    ("copy", "reason"),
    [
        (replace(FOLLOWER, end=SOURCE.end + 1), AHEAD),
        (replace(FOLLOWER, timeline=1, end=70 * SEGMENT + 1), AHEAD),
        (replace(FOLLOWER, timeline=3), AHEAD),
        (replace(BEHIND, followed=False), LACKS),
        (replace(BEHIND, end=0, asks=0), LACKS),
    ],
    ids=["ahead", "beyond the fork", "of an unknown timeline", "written to", "unreadable"],
)
def test_what_may_hold_writes_of_its_own_is_kept(copy: Copy, reason: str) -> None:
    """Only what is shown to be a copy, and not ahead, is ever deleted."""
    assert decide_rebuild("db2", copy, SOURCE) == Rebuild(reason, keep=True)


def test_standby_that_was_written_to_is_told_by_its_checkpoint() -> None:
    """Its log may end before its primary's; a checkpoint that the primary has not made is its own."""
    source = replace(SOURCE, never_made={(2, 79 * SEGMENT)})
    assert decide_rebuild("db2", FOLLOWER, source) is None
    written = replace(FOLLOWER, checkpoint=(2, 79 * SEGMENT))
    assert decide_rebuild("db2", written, source) == Rebuild(AHEAD, keep=True)


def test_copy_goes_first_where_there_is_no_room_for_both() -> None:
    """A copy may make room for the next one; what is to be kept may not."""
    small = replace(BEHIND, free_bytes=100 * MIB)
    assert decide_rebuild("db2", small, SOURCE) == Rebuild(LACKS, keep=False, first=True)
    with pytest.raises(PrimaryError) as caught:
        decide_rebuild("db2", replace(small, followed=False), SOURCE)
    assert str(caught.value) == (
        "db2 cannot follow: its primary no longer has the WAL that it lacks. A new copy takes 800"
        " MiB, and the disk of /var/lib/postgresql/15/main has room for 100 beside what lies there,"
        " which is to be kept; make room, or move it to another disk; nothing was changed"
    )
    with pytest.raises(PrimaryError) as caught:
        decide_rebuild("db2", replace(small, bytes=300 * MIB), SOURCE)
    assert str(caught.value) == (
        "db2 cannot follow: its primary no longer has the WAL that it lacks. A new copy takes 800"
        " MiB, and the disk of /var/lib/postgresql/15/main has room for 400 without the old one;"
        " give it a larger disk; nothing was changed"
    )


def test_nothing_is_rebuilt_from_what_cannot_be_read() -> None:
    """A primary whose log cannot be read shows nothing of its standbys."""
    assert decide_rebuild("db2", BEHIND, replace(SOURCE, end=0)) is None
