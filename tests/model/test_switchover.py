"""What there is to do for a standby to take over, and what is said when it cannot."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tierstack.model.primary import DataDirectory, PrimaryError
from tierstack.model.switchover import Member, Switchover, decide_switchover

MIB = 1024**2
HELD = DataDirectory(present=True, system_id="71", timeline=1)
COPY = replace(HELD, standby=True)
PRIMARY = Member(HELD, running=True, behind={"db2": 0, "db3": 0})
STANDBY = Member(COPY, running=True, streams=True)
#: A primary that a run which was cut off has stopped, and a standby of it.
STOPPED = Member(HELD, shut_down=True)
ALONE = replace(STANDBY, streams=False)
MADE_WAY = Member(replace(COPY, made_way_for="db2"), shut_down=True)
PROMOTED = Member(replace(HELD, timeline=2), running=True)
CLUSTER = {"db1": PRIMARY, "db2": STANDBY, "db3": STANDBY}


def decide(to: str, **found: Member) -> Switchover:
    """Return what there is to do, on three db hosts."""
    return decide_switchover(found, ["db1", "db2", "db3"], to, "prod.py")


def refusal(to: str, **found: Member) -> str:
    """Return the message of a refusal; hosts that are not given are as in a good cluster."""
    with pytest.raises(PrimaryError) as caught:
        decide(to, **{**CLUSTER, **found})
    return str(caught.value)


def test_standby_takes_over() -> None:
    """The primary and all who stream follow it; one that does not stream is not waited for."""
    assert decide("db2", **CLUSTER) == Switchover("db2", "db1", "switch", ("db1", "db3"))
    away = {**CLUSTER, "db3": replace(STANDBY, running=False, streams=False)}
    assert decide("db2", **away) == Switchover("db2", "db1", "switch", ("db1",))


def test_primary_is_left_alone() -> None:
    """Who is the primary already has nothing to do."""
    assert decide("db1", **CLUSTER) == Switchover("db1", "", "nothing")


@pytest.mark.parametrize(
    ("to", "db1", "db2", "step", "old"),
    [
        ("db2", STOPPED, ALONE, "stopped", "db1"),
        ("db2", MADE_WAY, ALONE, "promote", "db1"),
        ("db1", MADE_WAY, ALONE, "return", ""),
    ],
    ids=["the primary was stopped", "it had made way", "back to who had made way"],
)
def test_run_that_was_cut_off_is_continued(
    to: str, db1: Member, db2: Member, step: str, old: str
) -> None:
    """The same command finishes it, and the other way leads back; all others follow."""
    found = decide(to, db1=db1, db2=db2, db3=ALONE)
    assert (found.step, found.old) == (step, old)
    assert set(found.followers) == {"db1", "db2", "db3"} - {to}


def test_former_primary_that_does_not_follow_yet_is_finished() -> None:
    """After the promotion only who made way is left; its note goes when it streams."""
    found = decide("db2", db1=MADE_WAY, db2=PROMOTED, db3=STANDBY)
    assert found == Switchover("db2", "", "follow", ("db1",))
    follows = replace(STANDBY, held=replace(COPY, timeline=2))
    assert decide("db2", db1=follows, db2=PROMOTED, db3=follows).step == "nothing"


@pytest.mark.parametrize(
    ("to", "found", "message"),
    [
        ("", {}, "no host is named; add --data to=HOST, one of db2, db3"),
        ("db9", {}, '"db9" is no db host; add --data to=HOST, one of db2, db3'),
        (
            "db2",
            {"db2": Member(DataDirectory(present=False))},
            "db2 has no copy of the database yet; deploy first",
        ),
        (
            "db2",
            {"db2": replace(STANDBY, running=False, streams=False)},
            "PostgreSQL on db2 does not answer; nothing was changed. Type on it: systemctl start"
            " postgresql@15-main",
        ),
        (
            "db2",
            {"db2": ALONE},
            "db2 does not stream from db1; nothing was changed. Deploy, which has it follow or"
            " rebuilds it, or look why, on db2: journalctl -t postgres -n 20",
        ),
        (
            "db2",
            {"db1": replace(PRIMARY, behind={"db2": 300 * MIB})},
            "db2 is 300 MiB behind db1, and visitors would wait for it; nothing was changed. Wait"
            " until it has caught up: tierstack status prod.py",
        ),
        (
            "db2",
            {"db1": replace(PRIMARY, behind={"db2": 0, "db3": 65 * MIB})},
            "db3 is 65 MiB behind db1, and visitors would wait for it; nothing was changed. Wait"
            " until it has caught up: tierstack status prod.py",
        ),
        (
            "db2",
            {"db3": replace(STANDBY, held=replace(COPY, made_way_for="db1"))},
            "db3 made way, and is not known to follow db1 yet; nothing was changed. Type first:"
            " pyinfra prod.py tasks/switchover.py --data to=db1",
        ),
        (
            "db2",
            {"db1": replace(PRIMARY, running=False), "db2": ALONE},
            "the primary db1 does not run, and has not ended in order, so what db2 lacks of its"
            " writes cannot be told; nothing was changed. Type on db1: systemctl start"
            " postgresql@15-main",
        ),
        (
            "db3",
            {"db1": MADE_WAY, "db2": ALONE, "db3": ALONE},
            "db1 made way for db2 in a switchover that did not end, and nobody is the primary now;"
            " nothing was changed. Type: pyinfra prod.py tasks/switchover.py --data to=db2; or, to go"
            " back: pyinfra prod.py tasks/switchover.py --data to=db1",
        ),
    ],
)
def test_refusals(to: str, found: dict[str, Member], message: str) -> None:
    """Each names what is wrong, and what to type."""
    assert refusal(to, **found) == message


def test_one_host_alone_and_none_with_data() -> None:
    """There must be a standby, and a database."""
    with pytest.raises(PrimaryError) as caught:
        decide_switchover({"db1": PRIMARY}, ["db1"], "db2", "prod.py")
    assert str(caught.value) == (
        "db1 is the only db host; write another one in db as well, deploy, and then switch over to it"
    )
    empty = Member(DataDirectory(present=False))
    assert refusal("db1", db1=empty, db2=empty, db3=empty) == (
        "no db host holds a database yet; deploy first"
    )
