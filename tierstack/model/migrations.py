"""What is said of migrations that were not applied: who is in the way, what is left, what to type."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tierstack.model.plan import listed

#: What PostgreSQL says of sessions, as JSON; PIDS is the array of who is meant. A statement is shown
#: up to its first literal, which may be a secret, and what the asking role may not see is null.
#: Source: PostgreSQL 15 manual, 28.2.3 and 9.26.1.
SESSIONS_SQL = r"""
SELECT coalesce(json_agg(json_build_object(
  'pid', pid, 'role', usename, 'application', application_name, 'address', host(client_addr),
  'state', state, 'since', to_char(xact_start AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS'),
  'query', CASE WHEN state IS NOT NULL THEN left(
    regexp_replace(regexp_replace(query, '[''$].*', '…'), '\s+', ' ', 'g'), 100) END
) ORDER BY xact_start), '[]') FROM pg_stat_activity WHERE pid = ANY(PIDS)
"""

#: What PostgreSQL says of a time zone that its host does not have.
_NO_ZONE = re.compile(r'invalid value for parameter "TimeZone": "([^"]*)"')


@dataclass(frozen=True)
class Place:
    """
    Where migrations are applied.

    Args:
        host: name of the web host.
        site: the site's name.
        primary: name of the host with the database; "" if it has no part in the run.
        lock_s: how long a statement waits for a lock, in seconds.
        limit_s: longest that all of them may work, in seconds.
    """

    host: str
    site: str
    primary: str
    lock_s: int
    limit_s: int


def stopped(place: Place, result: Mapping[str, Any] | None) -> str:
    """
    Return what is said of migrations that did not all come about.

    Args:
        place: where.
        result: what `migrate_site.py` says; None if the site did not get so far.
    """
    head = f"{place.host}: site {place.site}: "
    if result is None:
        return (
            f"{head}its migrations cannot be applied, as Django says above; correct it, and deploy"
            " again; what served before serves on"
        )
    if why := not_let_in(place, result):
        return f"{head}{why}; what served before serves on"
    what = _printable(result["migration"]) or "what comes with its migrations"
    if result["status"] == "locked":
        head += (
            f"{what} waited for a lock for {place.lock_s} s"
            + (f", {result['tries']} times over," if result["tries"] > 1 else ",")
            + " and gave way, so that pages do not wait for it"
        )
        # The site has said so: what is no number is no session, and nothing to type.
        sessions = [one for one in result["sessions"] if isinstance(one["pid"], int)]
        return f"{head}; {_left(place, result)}. {_in_the_way(place, sessions)}"
    return (
        f"{head}{what} failed, as Django says above; {_left(place, result)}. Correct it, and deploy"
        " again"
    )


def too_long(place: Place) -> str:
    """Return what is said of migrations that were ended because they took too long."""
    return (
        f"{place.host}: site {place.site}: its migrations took longer than {place.limit_s} s"
        " (db.migration_s) and were ended, and what is atomic of them was rolled back; see what came"
        f" about: {_typed(place, 'showmigrations')}; find out what they wait for, or write a larger"
        " db.migration_s, and deploy again; what served before serves on"
    )


def not_let_in(place: Place, result: Mapping[str, Any]) -> str:
    """
    Return why PostgreSQL lets the site in for nothing, and what to do, without its host and name.

    "" where it is something else: then Django's own words are needed, too.

    Args:
        place: where.
        result: what `migrate_site.py` says.
    """
    if "password authentication failed" in result["error"]:
        if place.primary:
            return (
                f"PostgreSQL on {place.primary} does not take its password, which this run has set;"
                f" look, on {place.primary}: journalctl -t postgres -n 20"
            )
        return (
            "PostgreSQL does not take its password: it has changed in the secrets file, and the"
            " hosts where it is set have no part in this run; deploy without --limit"
        )
    zone = _NO_ZONE.search(result["error"])
    # A migration may name one by itself, and then it is what has to be corrected.
    if zone and not result["migration"]:
        host = place.primary or "the primary"
        return (
            f"{result['zone_setting']} is {_printable(zone[1])!r}, a time zone that PostgreSQL on"
            f" {host} does not know; write one that it does (type there: runuser -u postgres -- psql"
            " -c 'table pg_timezone_names'), or bring its tzdata up to date (apt-get"
            " update && apt-get install tzdata), and deploy again"
        )
    return ""


def _left(place: Place, result: Mapping[str, Any]) -> str:
    """Return in what state the tables are."""
    said = []
    if result["applied"]:
        said.append(f"{listed(result['applied'])} came about before and stay{_s(result)}")
    if result["migration"] and result["undone"]:
        said.append("nothing of it was applied in this run")
    elif result["migration"]:
        show = _typed(place, "sqlmigrate", *result["migration"].split(".", 1))
        said.append(
            "it is not atomic (atomic = False), so what it did before stays, and Django will begin"
            f" it anew: compare the tables with: {show}"
        )
    for index in result["invalid_indexes"]:
        drop = json.dumps(f"DROP INDEX CONCURRENTLY {index}")
        code = f"from django.db import connection; connection.cursor().execute({drop})"
        said.append(
            f"the index {_printable(index)} was begun and is not valid; type:"
            f" {_typed(place, 'shell', '-c', code)}"
        )
    said.append("what served before serves on")
    return ", and ".join(said) if len(said) < 3 else "; ".join(said)


def _typed(place: Place, *arguments: str) -> str:
    """Return a management command for somebody to type as root: the names in it are the site's."""
    return _printable(shlex.join(["tierstack-manage", place.site, *arguments]))


def _s(result: Mapping[str, Any]) -> str:
    return "s" if len(result["applied"]) == 1 else ""


def _in_the_way(place: Place, sessions: Sequence[Mapping[str, Any]]) -> str:
    if not sessions:
        return "Who held the lock could not be seen; deploy again"
    where = f"on {place.primary}" if place.primary else "on the primary"
    pids = " ".join(f"select pg_terminate_backend({one['pid']});" for one in sessions)
    return (
        f"The lock is held by {' and by '.join(_session(one) for one in sessions)}. Wait for"
        f" {'its' if len(sessions) == 1 else 'their'} end, or type {where}: runuser -u postgres --"
        f" psql -c '{pids}'; then deploy again"
    )


def _session(one: Mapping[str, Any]) -> str:
    """Return who a session is, what it does and since when, as far as it was to be seen."""
    words = f"session {one['pid']} of {one['role'] or 'PostgreSQL itself'}"
    if one["application"]:
        words += f" ({_printable(one['application'])})"
    if not one["state"]:
        return f"{words}, of which only a superuser may see more"
    words += f" from {one['address'] or 'the database host itself'}, {one['state']}"
    if one["since"]:
        words += f", its transaction open since {one['since']} UTC"
    return f"{words}: {_printable(one['query'])}"


def _printable(text: str) -> str:
    """Return text of somebody else's without signs that a terminal would obey."""
    return "".join(sign if sign.isprintable() else "?" for sign in text)
