"""A standby takes over from the primary: what there is to do, decided from what the db hosts hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from tierstack.model.primary import (
    DataDirectory,
    PrimaryError,
    UnfinishedError,
    decide_primary,
    switch_to,
)
from tierstack.model.shell import quoted

#: How far a standby may be behind when visitors are about to wait for it, in MiB.
_BEHIND_LIMIT_MB = 64

_START = "systemctl start postgresql@15-main"

Step = Literal["switch", "stopped", "promote", "return", "follow", "nothing"]


@dataclass(frozen=True)
class Member:
    """
    What a db host says of itself.

    Args:
        held: its data directory.
        running: its server answers.
        streams: it receives its primary's WAL.
        shut_down: its server has ended in order, as a primary; known from files.
        behind: of hosts that follow it, what they have not replayed of its WAL, in bytes.
    """

    held: DataDirectory
    running: bool = False
    streams: bool = False
    shut_down: bool = False
    behind: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Switchover:
    """
    What there is to do for a host to be the primary.

    Args:
        to: that host.
        old: who is the primary until then, or has made way for it; "" if `to` is the primary.
        step: where to begin: "switch" with everything; "stopped" where `old` does not run any more;
            "promote" where it has made way, and nobody is the primary; "return" where it is `to`
            itself that has made way; "follow" where `to` is the primary, and who made way for it does
            not follow yet; "nothing" is left.
        followers: hosts that are to stream from `to` at the end.
    """

    to: str
    old: str
    step: Step
    followers: tuple[str, ...] = ()


def decide_switchover(
    found: Mapping[str, Member], order: Sequence[str], to: str, inventory: str
) -> Switchover:
    """
    Return what there is to do for a host to be the primary, also after a run that was cut off.

    Args:
        found: what each db host says, by name.
        order: all db hosts, in inventory order.
        to: who is to be the primary; "" if nobody was named.
        inventory: the inventory's file, for what to type.

    Raises:
        PrimaryError: it cannot be, or not now; nothing was changed.
    """
    held = {name: found[name].held for name in order if name in found}
    holders = [name for name in held if held[name].present]
    if held and not holders:
        raise PrimaryError("no db host holds a database yet; deploy first")
    try:
        primary = decide_primary(held, order, inventory)
    except UnfinishedError as unfinished:
        others = tuple(name for name in holders if name != to)
        if to == unfinished.old:
            return Switchover(to, "", "return", others)
        if to != unfinished.heir:
            raise
        _refuse_stopped(found, to)
        return Switchover(to, unfinished.old, "promote", others)
    if len(order) == 1:
        raise PrimaryError(
            f"{primary} is the only db host; write another one in db as well, deploy, and then"
            " switch over to it"
        )
    if to not in order:
        said = f'"{to}" is no db host' if to else "no host is named"
        standbys = ", ".join(name for name in order if name != primary)
        raise PrimaryError(f"{said}; add --data to=HOST, one of {standbys}")
    if to == primary:
        made_way = [name for name in holders if held[name].made_way_for]
        return Switchover(to, "", "follow" if made_way else "nothing", tuple(made_way))
    _refuse_unfit(found, primary, to, inventory)
    # Where the primary was stopped by a run that was cut off, nobody streams.
    stopped = not found[primary].running
    followers = [name for name in holders if stopped or name == primary or found[name].streams]
    step: Step = "stopped" if stopped else "switch"
    return Switchover(to, primary, step, tuple(name for name in followers if name != to))


def _refuse_unfit(found: Mapping[str, Member], primary: str, to: str, inventory: str) -> None:
    heir, now = found[to], found[primary]
    # A second note would make it unclear who made way last.
    for name, member in found.items():
        if member.held.made_way_for:
            raise PrimaryError(
                f"{name} made way, and is not known to follow {primary} yet; nothing was changed."
                f" Type first: {switch_to(primary, inventory)}"
            )
    if not heir.held.present:
        raise PrimaryError(f"{to} has no copy of the database yet; deploy first")
    _refuse_stopped(found, to)
    if not now.running:
        # A run that was cut off after it had stopped the primary leaves it so.
        if now.shut_down:
            return
        raise PrimaryError(
            f"the primary {primary} does not run, and has not ended in order, so what {to} lacks of"
            f" its writes cannot be told; nothing was changed. Type on {primary}: {_START}"
        )
    if not heir.streams:
        raise PrimaryError(
            f"{to} does not stream from {primary}; nothing was changed. Deploy, which has it follow"
            f" or rebuilds it, or look why, on {to}: journalctl -t postgres -n 20"
        )
    # A primary that stops waits for all who stream.
    for name, late in now.behind.items():
        if late > _BEHIND_LIMIT_MB * 1024**2:
            raise PrimaryError(
                f"{name} is {late // 1024**2} MiB behind {primary}, and visitors would wait for it;"
                f" nothing was changed. Wait until it has caught up: tierstack status {quoted(inventory)}"
            )


def _refuse_stopped(found: Mapping[str, Member], to: str) -> None:
    if not found[to].running:
        raise PrimaryError(
            f"PostgreSQL on {to} does not answer; nothing was changed. Type on it: {_START}"
        )
