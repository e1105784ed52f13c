"""An operator's hold on a web node: a file that makes its health path answer 404, over reboots too.

Reason: pyinfra has no notion of a rotation; the file works for every balancer at once.
"""

from __future__ import annotations

from collections.abc import Generator

from pyinfra import host
from pyinfra.api.command import StringCommand
from pyinfra.api.facts import FactBase
from pyinfra.api.operation import operation

HOLD = "/etc/tierstack/hold"


class HoldNote(FactBase[str]):
    """Who holds the node back, and why, in one line; "" when nobody does."""

    def command(self) -> str:
        return f"test -e {HOLD} && {{ cat {HOLD}; echo; }} || true"

    @staticmethod
    def default() -> str:
        return ""

    def process(self, output: list[str]) -> str:
        return " ".join(output).strip() or "no reason given"


@operation()
def held(note: str) -> Generator[StringCommand, None, None]:
    """
    Hold the host back; one that is held already keeps its note.

    Args:
        note: who holds it back, and why, in one line.
    """
    if not host.get_fact(HoldNote):
        yield StringCommand(f"cat > {HOLD}.new && mv {HOLD}.new {HOLD}", _stdin=[note])


@operation()
def let_go() -> Generator[StringCommand, None, None]:
    """Let the host back into rotation."""
    if host.get_fact(HoldNote):
        yield StringCommand(f"rm {HOLD}")
