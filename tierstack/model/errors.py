"""What can be wrong with an inventory, as one list."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Mistake:
    """One mistake: `where` is the key as the user wrote it, `what` says what is wrong and what to write."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


class TierstackError(Exception):
    """Base of all errors that are told to the user in a sentence."""


class InventoryError(TierstackError, ValueError):
    """
    An inventory or its settings are wrong.

    Args:
        inventory: the file, as the user named it.
        mistakes: all that is wrong, at least one.
    """

    def __init__(self, inventory: str, mistakes: list[Mistake]) -> None:
        self.inventory = inventory
        self.mistakes = sorted(set(mistakes))
        super().__init__(self.message())

    def message(self) -> str:
        """Return the whole message: a line that counts, then a line a mistake."""
        count = len(self.mistakes)
        noun = "error" if count == 1 else "errors"
        lines = [f"{self.inventory}: {count} {noun}, no host was touched"]
        lines += [f"  {mistake}" for mistake in self.mistakes]
        return "\n".join(lines)


class CapacityError(TierstackError, ValueError):
    """Memory or connections do not add up."""
