"""Which machine answers, and a note that all machines share through the cache."""

import socket
from typing import TypedDict

from django.core.cache import cache
from django.utils import timezone

NOTE_KEY = "node-note"
NOTE_TIMEOUT_S = 60


class Note(TypedDict):
    """What one machine computed for all: its name, the time, and both as a sentence."""

    by: str
    at: str
    text: str


def node_name() -> str:
    """Return this machine's host name."""
    return socket.gethostname()


def cached_note() -> Note:
    """Return the note from the cache, computing it if it is absent or has expired."""
    return cache.get_or_set(NOTE_KEY, _write_note, NOTE_TIMEOUT_S)


def _write_note() -> Note:
    by = node_name()
    now = timezone.now().replace(microsecond=0)
    return {"by": by, "at": now.isoformat(), "text": f"cached at {now:%H:%M:%S} by {by}"}
