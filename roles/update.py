"""How each tier's services come to run what a package update has installed."""

from __future__ import annotations

from collections.abc import Callable

from roles import balancer, cache, db, media, web
from roles.web.release import PROGRAMS
from tierstack.model import UNITS, Cluster, Host

_ANSWERS = {
    "balancer": balancer.answers,
    "web": web.answers,
    "db": db.answers,
    "cache": cache.answers,
    "media": media.answers,
}

#: Where it takes another command than `systemctl restart`.
_RUN_THE_NEW = {
    # The master process starts itself anew, and keeps the sockets open. Source: haproxy(1), -W.
    "balancer": f"systemctl reload {UNITS['balancer']}",
    "web": f"{PROGRAMS}/web-node serve",
}


def units(host: Host) -> dict[str, str]:
    """Return the services of a host's tiers, each with the command that restarts it."""
    found = [(tier, UNITS[tier]) for tier in host.tiers if tier in _ANSWERS]
    return {unit: _RUN_THE_NEW.get(tier, f"systemctl restart {unit}") for tier, unit in found}


def answers(cluster: Cluster, host: Host) -> Callable[[], str]:
    """Return a check that says what is missing until every tier of a host answers, or ""."""
    checks = [check(cluster, host) for tier, check in _ANSWERS.items() if tier in host.tiers]

    def check() -> str:
        return next((said for ask in checks if ask and (said := ask())), "")

    return check


def is_primary(cluster: Cluster, host: Host) -> bool:
    """Return whether a host is the primary now."""
    return "db" in host.tiers and db.survey(cluster).primary.name == host.name
