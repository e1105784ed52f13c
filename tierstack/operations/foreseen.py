"""Commands that say beforehand what they do, for `tierstack plan`.

Reason: pyinfra's own change detection tells whether an operation has a command to run, and no more.
Said where the command is made, it cannot differ from what the command does.
"""

from __future__ import annotations

from typing import Any

from pyinfra.api.command import StringCommand

from tierstack.model.plan import Effect


class Foreseen(StringCommand):
    """A shell command and what it does to its host."""

    def __init__(self, *bits: Any, effect: Effect, **arguments: Any) -> None:
        super().__init__(*bits, **arguments)
        self.effect = effect
