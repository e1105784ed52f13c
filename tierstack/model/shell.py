"""Commands as messages print them, to be pasted into a shell."""

from __future__ import annotations

import shlex
from pathlib import Path


def quoted(path: Path | str) -> str:
    """Return a path as a user would type it: blanks and the like quoted, a leading `~/` left as it is."""
    text = str(path)
    return f"~/{shlex.quote(text[2:])}" if text.startswith("~/") else shlex.quote(text)
