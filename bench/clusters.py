"""Clusters of a given number of hosts, as a site grows: web hosts above all, then caches."""

from __future__ import annotations

from pathlib import Path

from tierstack.inventory import CHECKOUT

#: The fewest hosts that hold every tier apart, but for cache and media.
FEWEST = 4

#: The most that the numbering below has addresses for.
MOST = 64

_FROM = {"balancer": 10, "db": 20, "cache": 30, "media": 40, "web": 100}
_NAMES = {"balancer": "lb", "db": "db", "cache": "cache", "media": "media", "web": "web"}

_GROUP_DATA = '''\
"""The example site on lab hosts; the workers of many web hosts share one machine's memory."""

sites = [
    dict(
        name="example",
        source={source!r},
        settings="mysite.settings",
        domains=["example.test", "www.example.test"],
    ),
]
web = dict(workers=2)
# Also where the kernel has NFS: the playbook knows this one.
media = dict(share="sshfs")
'''


def arrangement(hosts: int) -> dict[str, list[tuple[str, int]]]:
    """
    Return who is in which tier.

    Args:
        hosts: how many hosts there are in all, from FEWEST to MOST.

    Returns:
        By tier, names and host numbers. Below eight hosts there is one database, and one host has
        both cache and media.
    """
    small = hosts < 8
    counts = {
        "balancer": max(1, hosts // 16),
        "db": 1 if small else 2,
        "cache": max(1, hosts // 8),
        "media": 1,
    }
    counts["web"] = hosts - sum(counts.values()) + small
    tiers = {
        tier: [(f"{_NAMES[tier]}{n}", _FROM[tier] + n - 1) for n in range(1, counts[tier] + 1)]
        for tier in _NAMES
    }
    if small:
        tiers["cache"] = tiers["media"]
    return tiers


def write(directory: Path, hosts: int) -> Path:
    """
    Write an inventory with group data of its own.

    Args:
        directory: an empty directory.
        hosts: as of `arrangement`.

    Returns:
        The inventory file.
    """
    lines = ["from tierstack.inventory import cluster", "from tierstack.lab import lab_host", ""]
    for tier, members in arrangement(hosts).items():
        lines += [f"{tier} = [", *(f"    lab_host({n!r}, {number})," for n, number in members), "]"]
    lines += ["", "cluster(__file__)", ""]
    inventory = directory / "bench.py"
    inventory.write_text("\n".join(lines), encoding="utf-8")
    (directory / "group_data").mkdir()
    text = _GROUP_DATA.format(source=str(CHECKOUT / "example"))
    (directory / "group_data" / "all.py").write_text(text, encoding="utf-8")
    return inventory
