"""The last lines of a run: who failed, what was done, what was not, what to type."""

from __future__ import annotations

from tierstack.model.summary import HostRun, complete, summary

AGAIN, LOOK = "pyinfra prod.py deploy.py -y", "tierstack status prod.py"
LAST = [f"How the nodes are now: {LOOK}"]


def test_good_run_takes_one_line() -> None:
    """All is done: so many hosts, so many changed."""
    hosts = [HostRun("web1", ("Packages", "Apache"), 2), HostRun("db1", ("Packages",))]
    assert complete(hosts)
    assert summary(hosts, AGAIN, LOOK) == ["All is done: 2 hosts, 1 changed."]
    assert summary(hosts[1:], AGAIN, LOOK) == ["All is done: 1 host, none changed."]


def test_failed_host_comes_first() -> None:
    """The host that failed is told first, then those left out; hosts that tell the same share a line."""
    out = {"ending": "left out", "step": "Apache", "said": "not changed, because web1 failed"}
    hosts = [
        HostRun("lb1", ("Packages",), left=("HAProxy",)),
        HostRun("web1", ("Packages", "Release"), 1, "failed", "Apache", "no such module"),
        HostRun("web2", ("Packages", "Release"), 2, **out),  # type: ignore[arg-type]
        HostRun("web3", ("Packages", "Release"), 2, **out),  # type: ignore[arg-type]
        HostRun("db1", ("Packages",)),
        HostRun("cache1", ("Packages",)),
    ]
    assert not complete(hosts)
    assert summary(hosts, AGAIN, LOOK) == [
        "The run stopped half-way: web1 failed. Host by host:",
        '  web1: failed in "Apache": no such module',
        '    done up to "Release", 1 changed',
        '  web2, web3: left out of "Apache": not changed, because web1 failed',
        '    done up to "Release", 2 changed',
        '  lb1: done up to "Packages", none changed',
        '    not begun: "HAProxy"',
        "  db1, cache1: all done, none changed",
        f"Mend what web1 said; type the same again, each run does what is missing: {AGAIN}",
        *LAST,
    ]


def test_lost_hosts_are_looked_at_first() -> None:
    """A host that fell silent is named with what reaches it by hand."""
    left = ("Release", "Tables", "Apache", "Logs", "End")
    hosts = [
        HostRun("web1", ending="lost", step="Packages", left=left, login="ssh root@10.0.0.11"),
        HostRun("web2", ("Packages",), left=left[:1], ending="lost", login="ssh -p 9 10.0.0.12"),
        HostRun("db1", ending="failed", step="Packages", said="see above"),
    ]
    assert summary(hosts, AGAIN, LOOK) == [
        "The run stopped half-way: db1 failed, and the connection to web1 and web2 is lost."
        " Host by host:",
        '  db1: failed in "Packages": see above',
        "    nothing done",
        '  web1: connection lost in "Packages", which may go on there',
        "    nothing done",
        '    not begun: "Release", "Tables", "Apache", 2 more',
        "  web2: connection lost",
        '    done up to "Packages", none changed',
        '    not begun: "Release"',
        "See why web1 (ssh root@10.0.0.11) and web2 (ssh -p 9 10.0.0.12) fell silent; mend what db1"
        f" said; type the same again, each run does what is missing: {AGAIN}",
        *LAST,
    ]


def test_stopped_by_hand_needs_no_mending() -> None:
    """Ctrl-C: what a host was at work on is named, and that it may go on."""
    hosts = [
        HostRun("web1", ("Packages",), 1, "under way", "Release", left=("Apache",)),
        HostRun("db1", ("Packages",)),
    ]
    assert summary(hosts, AGAIN, LOOK, "Ctrl-C") == [
        "The run stopped half-way, by Ctrl-C. Host by host:",
        '  web1: was at work on "Release", which may go on there',
        '    done up to "Packages", 1 changed',
        '    not begun: "Apache"',
        "  db1: all done, none changed",
        f"Type the same again, each run does what is missing: {AGAIN}",
        *LAST,
    ]
