"""Whether a db host may start as the primary, from what the others say."""

from __future__ import annotations

from typing import Any

from tierstack.operations.db_guard import newer, unheard


def peer(kind: str, timeline: int = 0, system_id: str = "71") -> dict[str, Any]:
    """Return what a db host says."""
    return {"is": kind, "timeline": timeline, "system_id": system_id, "said": ""}


def test_newer_timeline_is_the_heirs() -> None:
    """Whoever was promoted, or follows who was, says so; the heir itself is named if it answers."""
    assert newer("71", 1, {"a": peer("standby", 2), "b": peer("primary", 2)}) == "b"
    assert newer("71", 1, {"a": peer("standby", 2), "b": peer("silent")}) == "a"


def test_primary_starts_beside_its_standbys() -> None:
    """Who follows it is on its timeline; who is away, and another database, say nothing."""
    others = {
        "a": peer("standby", 2),
        "b": peer("primary", 1),
        "c": peer("silent"),
        "d": peer("primary", 9, "72"),
    }
    assert newer("71", 2, others) == ""
    assert newer("71", 2, {}) == ""


def test_those_that_were_not_heard_are_asked_again() -> None:
    """Whoever may be a primary and has not said so; a stranger is none of ours."""
    kinds = ("primary", "standby", "silent", "shut", "unknown", "stranger")
    assert unheard({kind: peer(kind) for kind in kinds}) == ["silent", "shut", "unknown"]
