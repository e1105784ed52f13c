"""Whether a db host may start as the primary, from what the others say."""

from __future__ import annotations

import socket
from typing import Any

from tierstack.operations.db_guard import ask, newer, shut_out, unheard


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
    kinds = ("primary", "standby", "silent", "shut", "unknown", "out", "stranger")
    assert unheard({kind: peer(kind) for kind in kinds}) == ["silent", "shut", "unknown", "out"]


def test_who_was_taken_out_is_shut_out() -> None:
    """By a host that is up; one that still answers as before knows better."""
    assert shut_out({"a": peer("silent"), "b": peer("out")}) == "b"
    assert shut_out({"a": peer("standby", 1), "b": peer("out")}) == ""
    assert shut_out({"a": peer("silent"), "b": peer("shut")}) == ""


def test_host_that_is_up_and_silent_shuts_this_one_out() -> None:
    """Its PostgreSQL's port is dropped, as a firewall does, and somebody listens at its SSH port."""
    with socket.create_server(("127.0.0.1", 0)) as ssh, socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        waiting = [socket.socket() for _ in range(3)]
        for one in waiting:  # No room for more: what comes now is not answered.
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        port = full.getsockname()[1]
        assert ask("127.0.0.1", port, ssh.getsockname()[1])["is"] == "out"
        assert ask("127.0.0.1", port)["is"] == "silent"
        for one in waiting:
            one.close()
    assert ask("127.0.0.1", port, port)["is"] == "shut"
