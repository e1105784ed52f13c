"""Who is the primary, and what is said when it cannot be told."""

from __future__ import annotations

import pytest

from tierstack.model.primary import DataDirectory, PrimaryError, decide_primary, slot_name

EMPTY = DataDirectory(present=False)
PRIMARY = DataDirectory(present=True, system_id="71", timeline=1)
STANDBY = DataDirectory(present=True, standby=True, system_id="71", timeline=1)
ASIDE = "systemctl stop postgresql@15-main; mv /var/lib/postgresql/15/main /var/lib/postgresql/15/main.old"


def refusal(found: dict[str, DataDirectory], order: list[str]) -> str:
    """Return the message of a refusal."""
    with pytest.raises(PrimaryError) as caught:
        decide_primary(found, order)
    return str(caught.value)


def test_first_line_decides_on_an_empty_cluster() -> None:
    """Where no host holds data, the first of the inventory becomes the primary."""
    assert decide_primary({"db2": EMPTY, "db1": EMPTY}, ["db1", "db2"]) == "db1"


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
    assert decide_primary({"db1": other, "db2": PRIMARY}, ["db1", "db2"]) == "db2"


def test_single_host_needs_no_other() -> None:
    """With one db host there is nobody else to ask."""
    assert decide_primary({}, ["db1"]) == "db1"


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
        " Put the primary's line back; or, if it is lost for good, type on db2:"
        " pg_ctlcluster 15 main promote; then deploy again"
    )
    assert expected == refusal({"db2": STANDBY, "db3": EMPTY}, ["db3", "db2"])


def test_standbys_without_primary() -> None:
    """With several standbys, who is promoted must be the one that got furthest."""
    expected = (
        "db1 and db2 are standbys, and their primary is no db host of this inventory; nothing was"
        " changed. Put the primary's line back; or, if it is lost for good, type on the one with"
        " the newest writes: pg_ctlcluster 15 main promote; then deploy again"
    )
    assert expected == refusal({"db1": STANDBY, "db2": STANDBY}, ["db1", "db2"])


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
