"""What a requirements file asks of a host before pip can install from it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

#: The Debian package of each program that pip fetches by.
#: Source: pip documentation, "VCS Support".
TOOLS = {"git": "git", "hg": "mercurial", "svn": "subversion"}

_FETCHED = re.compile(rf"(?:^|[\s=@])({'|'.join(TOOLS)})\+\w")
_INCLUDE = re.compile(r"(?:-r|--requirement)[\s=]*(\S+)")
_COMMENT = re.compile(r"(^|\s+)#.*$")
# pip leaves such a line out where its condition does not hold, which is for pip to say.
_CONDITION = re.compile(r"\s;")


def fetched_lines(source: Path, name: str) -> list[tuple[str, int, str]]:
    """
    Return the lines of a requirements file, and of those it includes, that a program fetches.

    Args:
        source: the site's source; what lies outside of it is not looked at.
        name: the file, relative to it.

    Returns:
        File relative to the source, line number and Debian package of the program, of each.

    Source: pip documentation, "Requirements File Format".
    """
    found = []
    waiting, seen = [source / name], set()
    while waiting:
        path = waiting.pop(0).resolve()
        if path in seen or not path.is_relative_to(source) or not path.is_file():
            continue
        seen.add(path)
        for number, line in _lines(path):
            if include := _INCLUDE.match(line):
                waiting.append(path.parent / include[1])
            elif (fetched := _FETCHED.search(line)) and not _CONDITION.search(line):
                found.append((str(path.relative_to(source)), number, TOOLS[fetched[1]]))
    return found


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield each line with the number of its first; one that ends in a backslash goes on."""
    start, text = 0, ""
    content = path.read_text(encoding="utf-8", errors="replace")
    for number, line in enumerate(content.splitlines(), start=1):
        start = start or number
        text += line
        if text.endswith("\\") and not line.lstrip().startswith("#"):
            text = text[:-1]
            continue
        yield start, _COMMENT.sub("", text).strip()
        start, text = 0, ""
    if text:
        yield start, text.strip()
