"""Who is the primary: decided from what the db hosts hold, never from the inventory alone."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tierstack.model.errors import TierstackError
from tierstack.model.plan import listed
from tierstack.model.shell import quoted

#: Where PostgreSQL 15's data lies on Debian 12.
DATA_DIRECTORY = "/var/lib/postgresql/15/main"

#: Where Debian 12 keeps its configuration; made after the data is in place, never before.
CONFIG_DIRECTORY = "/etc/postgresql/15/main"

#: Prefix of the replication slots that are ours to make and to drop.
SLOT_PREFIX = "tierstack_"

_SLOT_NAME_LIMIT = 63

_MOVE_ASIDE = f"systemctl stop postgresql@15-main; mv {DATA_DIRECTORY} {DATA_DIRECTORY}.old"

#: Makes a former primary a standby, so that it takes no writes, whenever it starts.
_STEP_DOWN = (
    "systemctl stop postgresql@15-main;"
    f" runuser -u postgres -- touch {DATA_DIRECTORY}/standby.signal"
)


class PrimaryError(TierstackError, ValueError):
    """Who is the primary cannot be told; nothing may be touched."""


class UnfinishedError(PrimaryError):
    """
    A switchover did not end: `old` has made way for `heir`, which is a standby still.

    Args:
        old: who was the primary.
        heir: who was to become it.
        inventory: the inventory's file, for what to type.
    """

    def __init__(self, old: str, heir: str, inventory: str) -> None:
        super().__init__(
            f"{old} made way for {heir} in a switchover that did not end, and nobody is the primary"
            f" now; nothing was changed. Type: {switch_to(heir, inventory)}; or, to go back:"
            f" {switch_to(old, inventory)}"
        )
        self.old = old
        self.heir = heir


@dataclass(frozen=True)
class DataDirectory:
    """
    What a db host holds; known from files, so also when its server is down.

    Args:
        present: something lies where PostgreSQL's data belongs.
        standby: it is set up to follow a primary (`standby.signal`).
        system_id: the database's own number, the same on a primary and its copies; "" if unreadable.
        timeline: grows with each promotion.
        configured: PostgreSQL is configured there, so it has had data before.
        made_way_for: the host for which it stopped being the primary; "" once it follows.
    """

    present: bool
    standby: bool = False
    system_id: str = ""
    timeline: int = 0
    configured: bool = False
    made_way_for: str = ""


def decide_primary(found: Mapping[str, DataDirectory], order: Sequence[str], inventory: str) -> str:
    """
    Return the name of the host that is the primary, or that becomes it on an empty cluster.

    Args:
        found: what each db host that could be asked holds, by host name.
        order: all db hosts, in inventory order.
        inventory: the inventory's file, for what to type.

    Raises:
        PrimaryError: it cannot be told, with the way out.

    Source: design, "Data is sacred": the first line only decides on an empty cluster.
    """
    unknown = [name for name in order if name not in found]
    if unknown and len(order) > 1:
        raise PrimaryError(
            f"db: who is the primary cannot be told without {listed(unknown)}, not asked in this run;"
            " nothing was changed. Run it without --limit, or with --limit db"
        )
    holders = {name: found[name] for name in order if name in found and found[name].present}
    if not holders:
        _refuse_missing([name for name in order if name in found and found[name].configured])
        return order[0]
    _refuse_unreadable(holders)
    _refuse_strangers(holders)
    primaries = [name for name, held in holders.items() if not held.standby]
    if len(primaries) > 1:
        raise PrimaryError(
            f"{listed(primaries)} are {'both' if len(primaries) == 2 else 'all'} primaries of the same database"
            f" ({_each(primaries, 'timeline', holders)}); nothing was changed. Find out which one"
            f" has the writes that you keep; on the other{'s' if len(primaries) > 2 else ''} type:"
            f" {_MOVE_ASIDE}; then deploy again, and it becomes a standby"
        )
    if not primaries:
        raise _no_primary(holders, inventory)
    primary = primaries[0]
    ahead = [name for name in holders if holders[name].timeline > holders[primary].timeline]
    if ahead:
        raise PrimaryError(
            f"{listed(ahead)} went further than the primary {primary}"
            f" ({_each([*ahead, primary], 'timeline', holders)}), so it cannot follow it; nothing was"
            " changed. Find out which one has the writes that you keep; on the other type:"
            f" {_MOVE_ASIDE}; then deploy again"
        )
    return primary


def second_writers(
    others: Mapping[str, Mapping[str, Any]], primary: str, held: DataDirectory, webs: Sequence[str]
) -> str:
    """
    Return what is said where web hosts have a second primary to write to; "" if they have not.

    Args:
        others: what answers at addresses that web hosts use and the inventory does not name
            (`ask` in operations/db_guard.py), by address.
        primary: name of the inventory's primary.
        held: what it holds.
        webs: names of the web hosts that use those addresses.
    """
    for address, said in others.items():
        if said["is"] == "primary" and said["system_id"] == held.system_id:
            return (
                f"{address} is no db host of this inventory, takes writes of the same database as"
                f" {primary} (timeline {said['timeline']} there, timeline {held.timeline} on"
                f" {primary}), and {listed(webs)} may write to it; nothing was changed. Find out which"
                f" one has the writes that you keep. To keep those of {primary}, type on {address}:"
                f" {_STEP_DOWN}; then deploy again, and what it holds stays there. To keep the"
                f" other's, write its line in db, and type on {primary}: {_MOVE_ASIDE}; then deploy"
            )
        if said["is"] == "unknown":
            return (
                f"{address} is no db host of this inventory, and {listed(webs)} may write to it; whether"
                f" it takes writes, it does not say to {primary} ({said['said']}); nothing was changed."
                f" Stop PostgreSQL there, or type on it: {_STEP_DOWN}; then deploy again"
            )
    return ""


@dataclass(frozen=True)
class Copy:
    """
    A data directory's write-ahead log and its room, known from files, so also when its server is down.

    Positions are in bytes since the log's beginning, as PostgreSQL's LSNs are.

    Args:
        timeline: the one that its last record is of.
        end: where its last record ends; 0 if its log cannot be read.
        oldest: where the oldest segment that it still has begins.
        asks: where the segment begins that it would ask its primary for first.
        forks: where each earlier timeline was left, by its number.
        checkpoint: timeline and position of its last checkpoint, which a standby has from its primary.
        never_made: of the checkpoints that it was asked for, those that it proves not to have made.
        followed: it ran as a standby last, or has not been started since it was copied.
        bytes: what it takes on the disk.
        free_bytes: what is free there.
    """

    timeline: int
    end: int
    oldest: int
    asks: int
    forks: Mapping[int, int]
    checkpoint: tuple[int, int]
    never_made: Collection[tuple[int, int]]
    followed: bool
    bytes: int
    free_bytes: int


@dataclass(frozen=True)
class Rebuild:
    """
    How a standby that cannot follow is copied anew.

    Args:
        reason: why it cannot follow, in words.
        keep: what it holds is nowhere else, perhaps: it is moved aside.
        first: it is deleted before the new copy is made, as there is no room for both.
    """

    reason: str
    keep: bool
    first: bool = False


def decide_rebuild(name: str, standby: Copy, primary: Copy) -> Rebuild | None:
    """
    Return how a standby that does not stream is to be rebuilt, or None if it will follow by itself.

    Args:
        name: the standby's host name.
        standby: its data directory; its system identifier is the primary's.
        primary: the primary's, asked after the standby's, so that it is ahead of any copy of it, and
            for the standby's checkpoint.

    Raises:
        PrimaryError: there is no room for the new copy.

    Source: design, "Data is sacred"; PostgreSQL 15 manual, 27.2.5 and 27.2.6.
    """
    if not primary.end:
        return None
    forks = {**primary.forks, primary.timeline: primary.end}
    # One that was written to as a primary of its own has made a checkpoint, whether or not its
    # primary has gone further since.
    if standby.end > forks.get(standby.timeline, 0) or standby.checkpoint in primary.never_made:
        reason, keep = "it holds writes that its primary does not have", True
    elif standby.asks < primary.oldest:
        reason, keep = (
            "its primary no longer has the WAL that it lacks",
            not (standby.followed and standby.end),
        )
    else:
        return None
    if primary.bytes <= standby.free_bytes:
        return Rebuild(reason, keep)
    room = standby.free_bytes + (0 if keep else standby.bytes)
    if primary.bytes <= room:
        return Rebuild(reason, keep, first=True)
    raise PrimaryError(
        f"{name} cannot follow: {reason}. A new copy takes {_mb(primary.bytes)} MiB, and the disk of"
        f" {DATA_DIRECTORY} has room for {_mb(room)}"
        + (
            " beside what lies there, which is to be kept; make room, or move it to another disk"
            if keep
            else " without the old one; give it a larger disk"
        )
        + "; nothing was changed"
    )


def slot_name(host_name: str) -> str:
    """
    Return the replication slot of a standby, unique among host names.

    Source: PostgreSQL 15 manual, 27.2.6.1: small letters, digits and underscores, at most 63.
    """
    name = SLOT_PREFIX + host_name.replace(".", "__").replace("-", "_")
    if len(name) > _SLOT_NAME_LIMIT or "--" in host_name:
        digest = hashlib.sha256(host_name.encode()).hexdigest()[:8]
        name = f"{name[: _SLOT_NAME_LIMIT - 9]}_{digest}"
    return name


def _refuse_missing(configured: Sequence[str]) -> None:
    if not configured:
        return
    one = len(configured) == 1
    raise PrimaryError(
        f"{listed(configured)} {'has been a database host' if one else 'have been database hosts'},"
        f" and {'its' if one else 'their'} data is not there;"
        f" mount {'its disk' if one else 'their disks'},"
        f" or, to start empty, remove {CONFIG_DIRECTORY} on {'it' if one else 'them'}"
    )


def _refuse_unreadable(holders: Mapping[str, DataDirectory]) -> None:
    broken = [name for name, held in holders.items() if not held.system_id]
    if broken:
        raise PrimaryError(
            f"{listed(broken)}: what lies in {DATA_DIRECTORY} is no database that PostgreSQL 15 can"
            " read; nothing was changed. Look at it, and if you do not need it, type there:"
            f" {_MOVE_ASIDE}"
        )


def _refuse_strangers(holders: Mapping[str, DataDirectory]) -> None:
    if len({held.system_id for held in holders.values()}) > 1:
        raise PrimaryError(
            f"{listed(list(holders))} hold different databases"
            f" ({_each(list(holders), 'system_id', holders)}), so they cannot be one cluster;"
            " nothing was changed. Find out which one you keep; on each host with another type:"
            f" {_MOVE_ASIDE}; then deploy again, and it becomes a standby"
        )


def _no_primary(holders: Mapping[str, DataDirectory], inventory: str) -> PrimaryError:
    for name, held in holders.items():
        if held.made_way_for in holders:
            return UnfinishedError(name, held.made_way_for, inventory)
    standbys = list(holders)
    one = len(standbys) == 1
    return PrimaryError(
        f"{listed(standbys)} {'is a standby' if one else 'are standbys'},"
        f" and {'its' if one else 'their'} primary is no db host of this inventory; nothing was"
        " changed. Put the primary's line back; to do without it, let"
        f" {standbys[0] if one else 'one of them'} take over then:"
        f" {switch_to(standbys[0], inventory)}. Or, if it is lost for good: see first that it stays"
        f" off, or, where it can be reached, type on it: {_STEP_DOWN}; then type on"
        f" {standbys[0] if one else 'the one with the newest writes'}:"
        " systemctl start postgresql@15-main; pg_ctlcluster 15 main promote; then deploy again"
    )


def switch_to(name: str, inventory: str) -> str:
    """Return what to type for a standby to become the primary."""
    return f"pyinfra {quoted(inventory)} tasks/switchover.py --data to={name}"


def _mb(size: int) -> int:
    return size // 1024**2


def _each(names: Sequence[str], what: str, holders: Mapping[str, DataDirectory]) -> str:
    words = {"timeline": "timeline", "system_id": "system identifier"}
    return ", ".join(f"{words[what]} {getattr(holders[name], what)} on {name}" for name in names)
