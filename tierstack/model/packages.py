"""One set of packages for all web hosts of a release: whose set it is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Packages:
    """
    What a host has installed for a release.

    Args:
        of: the host's name; "" where nobody has anything yet.
        versions: version by normalized name; with the commit or hash where that comes with it.
    """

    of: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)


def decide_packages(
    answers: Iterable[tuple[str, Mapping[str, Any]]], requirements: str
) -> Packages:
    """
    Return the packages that every web host gets for a release.

    Those of whoever serves it; else of whoever has laid it out; else those that a host has kept of a
    release that requires the same. Among equals, the first.

    Args:
        answers: what `web-release packages` says, by host, in the order of the inventory.
        requirements: hash of the requirements file's text.
    """
    said = list(answers)
    for name, answer in said:
        if answer["release"] and answer["served"]:
            return Packages(name, answer["release"])
    for name, answer in said:
        if answer["release"]:
            return Packages(name, answer["release"])
    for name, answer in said:
        if answer["kept"] and answer["kept_for"] == requirements:
            return Packages(name, answer["kept"])
    return Packages()
