"""A standby takes over from the primary, in one operation that drives all db hosts.

Reason: pyinfra's operations know no way back; here every failure between two steps is met in one
place.
"""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import gevent
from pyinfra import logger
from pyinfra.api.command import PyinfraCommand
from pyinfra.api.operation import operation

from tierstack.model import Cluster, TierstackError
from tierstack.model.plan import Effect
from tierstack.model.primary import SLOT_PREFIX, switch_to
from tierstack.model.switchover import Switchover
from tierstack.operations.foreseen import Foreseen
from tierstack.operations.pause import paused
from tierstack.operations.postgres import MAINTENANCE
from tierstack.operations.remote import HostError, at_once, run, tell_program

_AGENT = "postgres_agent.py"

#: How long the primary may take to stop, the next one to have what it wrote last, and to become the
#: primary, in seconds.
_STOP_S, _REPLAY_S, _PROMOTE_S = 10, 5, 10

#: A primary that was stopped and has not made way starts again after so many seconds: before
#: visitors who are held back for a run that has died are let go.
_BACK_S = 12

#: How long any other step may take, and the way to a host and back beside the step, in seconds.
_PATIENCE_S, _ANSWER_S = 120, 5

#: How long the next primary may take to catch up while visitors need not wait yet, and others to
#: follow it afterwards, in seconds.
_CATCH_UP_S, _FOLLOW_S = 30, 60


class SwitchoverError(TierstackError):
    """It has not come about; says what state the hosts are in, and what to type."""


class _GoneBackError(SwitchoverError):
    """The old primary is it again."""


@operation()
def switched_over(
    cluster: Cluster, wanted: Switchover, slots: Sequence[str]
) -> Generator[PyinfraCommand, None, None]:
    """
    Have a host be the primary, and the others follow it.

    Args:
        cluster: the cluster; all of its db hosts and web hosts take part in the run.
        wanted: what there is to do.
        slots: statements that make the replication slots of who will follow.
    """
    if wanted.step != "nothing":
        yield _SwitchOver(cluster, wanted, slots)


@operation()
def finished(made_way_for: str) -> Generator[Foreseen, None, None]:
    """
    Have a former primary that follows count as any standby, where the switchover's run did not.

    Args:
        made_way_for: the host for which it stopped being the primary; "" for any standby.
    """
    if made_way_for:
        request = {"verb": "follow", "drop_slots": "", "patience_s": _FOLLOW_S}
        yield run(_AGENT, request, Effect(notes=("ends the switchover in which it made way",)))


class _SwitchOver(PyinfraCommand):
    def __init__(self, cluster: Cluster, wanted: Switchover, slots: Sequence[str]) -> None:
        super().__init__()
        self._cluster, self._slots = cluster, slots
        self._to, self._old = wanted.to, wanted.old
        self._step, self._followers = wanted.step, wanted.followers
        self._again = f"type again: {switch_to(wanted.to, str(cluster.inventory))}"
        #: Why it has failed.
        self.sentence = ""
        self.effect = Effect(notes=(f"has {wanted.to} be the primary",))

    def __repr__(self) -> str:
        return f"SwitchOver({self._to!r})"

    def execute(self, state: Any, host: Any, connector_arguments: Any) -> bool:
        """Take the steps that are left, each told to its host."""
        try:
            if self._step == "return":
                self._return()
            elif self._step != "follow":
                self._switch(host.print_prefix)
            self._follow()
        except SwitchoverError as error:
            self.sentence = str(error)
            logger.error(f"{host.print_prefix}{self.sentence}")
            return False
        return True

    def _return(self) -> None:
        try:
            _do(self._to, "return", patience_s=_FOLLOW_S)
        except HostError as error:
            raise SwitchoverError(f"nobody is the primary: {error}; {self._again}") from None

    def _switch(self, prefix: str) -> None:
        """Have `to` become the primary; who was it has made way, or is the primary again."""
        try:
            self._prepare()
            if self._step == "switch":
                with paused(self._cluster):
                    lasted = self._hand_over()
            else:
                # Nobody can write, and visitors have nothing to wait for.
                lasted = self._hand_over()
        except HostError as error:
            self._forget_slots()
            running = self._step == "switch"
            state = f"{self._old} is the primary as before" if running else "nobody is the primary"
            raise SwitchoverError(f"{error}; {state}; {self._again}") from None
        except _GoneBackError:
            # Only now: what a host says that may be silent is nothing for visitors to wait for.
            self._forget_slots()
            raise
        logger.info(f"{prefix}is the primary; nobody could write for {lasted:.1f} s")

    def _prepare(self) -> None:
        """Do what may take long while visitors need not wait yet."""
        if self._slots:
            _do(self._to, "sql", statements=[(MAINTENANCE, sql) for sql in self._slots])
        if self._step == "switch":
            past = _said(self._old, "checkpoint")["checkpoint"]
            _do(self._to, "replayed", past=past, patience_s=_CATCH_UP_S)
            _said(self._to, "checkpoint")

    def _hand_over(self) -> float:
        """Stop the old primary and promote the new one; return how long that took, in seconds."""
        began = time.monotonic()
        try:
            if self._step == "promote":
                past = _said(self._old, "made_way")["checkpoint"]
            else:
                past = _said(self._old, "stop", patience_s=_STOP_S, back_s=_BACK_S)["checkpoint"]
            _do(self._to, "replayed", past=past, patience_s=_REPLAY_S)
            if self._step != "promote":
                # Only what has everything may take over; from here on, the old one does not write.
                _do(self._old, "make_way", **{"for": self._to, "checkpoint": past})
        except HostError as error:
            raise self._gone_back(error) from None
        try:
            _do(self._to, "promote", patience_s=_PROMOTE_S)
        except HostError as error:
            self._settle(error)
        return time.monotonic() - began

    def _settle(self, why: HostError) -> None:
        """After a promotion that failed: see whether it came about after all, else go back."""
        try:
            promoted = _said(self._to, "give_up")["promoted"]
        except HostError as error:
            raise SwitchoverError(
                f"{why}; whether it has become the primary cannot be told ({error}), so nobody may"
                f" write now, and {self._old} stays a standby; bring {self._to} up, and"
                f" {self._again}"
            ) from None
        if not promoted:
            raise self._gone_back(why)

    def _gone_back(self, why: HostError) -> SwitchoverError:
        """Have the old primary be it again; return what is said then."""
        try:
            _do(self._old, "return", patience_s=_FOLLOW_S)
        except HostError as error:
            return SwitchoverError(
                f"{why}; and {self._old} is not back as the primary ({error}): nobody can write;"
                f" look at it, and {self._again}"
            )
        return _GoneBackError(
            f"{why}; {self._old} is the primary again, and no write is lost; {self._again}"
        )

    def _forget_slots(self) -> None:
        """Have WAL kept for nobody on what stays a standby; the next deploy does it as well."""
        # One that is silent is not waited for until its connection is given up.
        with suppress(HostError, gevent.Timeout), gevent.Timeout(_ANSWER_S):
            _do(self._to, "sql", statements=[(MAINTENANCE, DROP_IDLE_SLOTS)])

    def _follow(self) -> None:
        """Wait until everybody else streams."""
        try:
            at_once(
                partial(_do, name, "follow", drop_slots=DROP_IDLE_SLOTS, patience_s=_FOLLOW_S)
                for name in self._followers
            )
        except HostError as error:
            raise SwitchoverError(
                f"{self._to} is the primary, and no write is lost, but {error}; {self._again}"
            ) from None


#: On a standby they are nobody's, and would keep WAL without end.
DROP_IDLE_SLOTS = (
    "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots"  # noqa: S608 -- a constant
    f" WHERE starts_with(slot_name, '{SLOT_PREFIX}') AND NOT active;"
)


def _do(name: str, verb: str, patience_s: int = _PATIENCE_S, **request: Any) -> str:
    """Tell a host a step; one that is silent for longer than the step may take is not waited for."""
    request = {"verb": verb, "patience_s": patience_s, **request}
    return tell_program(name, _AGENT, request, patience_s + _ANSWER_S)


def _said(name: str, verb: str, **request: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(_do(name, verb, **request).splitlines()[-1])
    return found
