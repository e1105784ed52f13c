"""Gates between the steps of a deploy: nothing goes on behind a host that has failed.

Reason: pyinfra goes on with the other hosts when one fails, its `_serial` does not stop either,
and it interleaves the operations of groups that share no host (an operation on all hosts between
two tiers puts them in order). What touches the engine's insides is in this file.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from typing import Any

from pyinfra import host, logger, state
from pyinfra.api.command import PyinfraCommand
from pyinfra.api.operation import operation

#: Names of the gates of this run: they change nothing, and so are no steps of a host.
gates: set[str] = set()


class Refuse(PyinfraCommand):
    """
    A command that only fails, with a sentence.

    Args:
        sentence: what it says.
        left_out: whether the reason is another host that has failed.
    """

    def __init__(self, sentence: str, *, left_out: bool = False) -> None:
        super().__init__()
        self.sentence = sentence
        self.left_out = left_out

    def __repr__(self) -> str:
        return f"Refuse({self.sentence!r})"

    def execute(self, state: Any, host: Any, connector_arguments: Any) -> bool:
        """Log the sentence and fail the host."""
        logger.error(f"{host.print_prefix}{self.sentence}")
        return False


def executing() -> bool:
    """Return whether hosts are being changed now, rather than a plan being made."""
    return bool(state.is_executing)


def failed_hosts() -> list[str]:
    """
    Return the names of the hosts that have failed in this run, sorted.

    pyinfra notes a failed host only when an operation has ended on all of them; the results tell
    of it at once, which is what an operation that takes one host after the other needs.
    """
    failing = {host.name for host, result in state.results.items() if result.error_ops}
    return sorted(failing | {failed.name for failed in state.failed_hosts})


def gate(
    name: str, before: str, answers: Callable[[], str] | None = None, deadline_s: int = 60
) -> None:
    """
    Go on only if no host has failed and this host's tier answers.

    Args:
        name: what is so behind the gate: "The db tier answers".
        before: what comes next, for the message: "the web tier".
        answers: called on each host until it returns "" (fine); else what is missing. It may only
            read: a gate changes nothing.
        deadline_s: how long to ask before giving up, in seconds.
    """
    gates.add(name)
    _gate(name=name, before=before, answers=answers, deadline_s=deadline_s)


@operation()
def _gate(
    before: str, answers: Callable[[], str] | None, deadline_s: int
) -> Generator[PyinfraCommand, None, None]:
    failed = failed_hosts()
    if failed:
        sentence = f"not started: {before}, because {', '.join(failed)} failed; see above"
        yield Refuse(sentence, left_out=True)
        return
    if executing() and (missing := wait_for(answers, deadline_s)):
        yield Refuse(f"{host.name}: {missing}; not started: {before}")


def wait_for(answers: Callable[[], str] | None, deadline_s: int = 60) -> str:
    """
    Ask until all is well, and return "", or what is missing and for how long it was asked.

    Args:
        answers: returns "" (fine), or what is missing; None has nothing to ask.
        deadline_s: how long to ask before giving up, in seconds.
    """
    deadline = time.monotonic() + deadline_s
    pause = 0.25
    while missing := answers() if answers else "":
        if time.monotonic() > deadline:
            return f"{missing} (asked for {deadline_s} s)"
        time.sleep(pause)
        pause = min(2.0, pause * 1.5)
    return ""
