"""What reaches the operator's terminal: text and colors, and nothing else that it would obey.

Much of what is printed was said by hosts, and there by whatever a site's account runs: pyinfra's lines,
the summary, `status`, `plan`, the words of programs that failed. So it is what is written that is looked
at, whoever has put it together, and not each of the many ways by which it comes here.
"""

from __future__ import annotations

import re
import sys
from typing import Any, TextIO, cast

#: Signs that are no text: control characters but tab and line feed, and those that have letters stand
#: in another order than they do. Source: ECMA-48; Unicode Standard Annex 9.
_NO_TEXT = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")

#: A color of letters, or bold; none that hides them.
_COLOR = r"(?:[0-4]|2[2-4]|3[1-79]|9[1-7])"

#: What click, rich and pyinfra write themselves: colors, the end of a line made empty, and a line's begin
#: where nothing of this text comes over it.
_OURS = re.compile(rf"\x1b\[(?:{_COLOR}(?:;{_COLOR})*)?m|\x1b\[K|\r(?=\n|\Z)")

#: pyinfra takes its question away, in one piece.
_ANSWERED = re.compile(r"\x1b\[1A *\x1b\[1A\n?")


def printable(text: str) -> str:
    """Return text without signs that a terminal would obey, colors excepted; a mark is in their place."""
    if not _NO_TEXT.search(text) or _ANSWERED.fullmatch(text):
        return text
    found, at = [], 0
    for ours in _OURS.finditer(text):
        found += [_NO_TEXT.sub("\N{REPLACEMENT CHARACTER}", text[at : ours.start()]), ours[0]]
        at = ours.end()
    return "".join([*found, _NO_TEXT.sub("\N{REPLACEMENT CHARACTER}", text[at:])])


class _Guarded:
    """A stream that gets nothing but printable text; all else is the stream's own."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(printable(text))
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def guard() -> None:
    """Have all that this process prints from now on be printable."""
    if not isinstance(sys.stdout, _Guarded):
        sys.stdout = cast("TextIO", _Guarded(sys.stdout))
    if not isinstance(sys.stderr, _Guarded):
        sys.stderr = cast("TextIO", _Guarded(sys.stderr))
