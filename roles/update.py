"""How each tier's services come to run what a package update has installed."""

from __future__ import annotations

from collections.abc import Callable

from roles import balancer, cache, db, media, web
from roles.web.release import PROGRAMS
from tierstack.model import Cluster, Host

_ANSWERS = {
    "balancer": balancer.answers,
    "web": web.answers,
    "db": db.answers,
    "cache": cache.answers,
    "media": media.answers,
}

#: Of each tier, its unit and the command.
_RUN_THE_NEW = {
    # The master process starts itself anew, and keeps the sockets open. Source: haproxy(1), -W.
    "balancer": ("haproxy.service", "systemctl reload haproxy.service"),
    "web": ("apache2.service", f"{PROGRAMS}/web-node serve"),
    "db": ("postgresql@15-main.service", "systemctl restart postgresql@15-main.service"),
    "cache": ("memcached.service", "systemctl restart memcached.service"),
    "media": ("lighttpd.service", "systemctl restart lighttpd.service"),
}


def units(host: Host) -> dict[str, str]:
    """Return the services of a host's tiers, each with the command that restarts it."""
    return dict(_RUN_THE_NEW[tier] for tier in host.tiers if tier in _RUN_THE_NEW)


def answers(cluster: Cluster, host: Host) -> Callable[[], str]:
    """Return a check that says what is missing until every tier of a host answers, or ""."""
    checks = [check(cluster, host) for tier, check in _ANSWERS.items() if tier in host.tiers]

    def check() -> str:
        return next((said for ask in checks if ask and (said := ask())), "")

    return check


def is_primary(cluster: Cluster, host: Host) -> bool:
    """Return whether a host is the primary now."""
    return "db" in host.tiers and db.survey(cluster).primary.name == host.name
