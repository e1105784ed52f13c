"""Migrations that cannot have a lock: how often they are tried, and what is said of them."""

from __future__ import annotations

import shlex
from types import SimpleNamespace
from typing import Any

import pytest

from tierstack.model.migrations import Place, stopped, too_long
from tierstack.operations import migrate_site

PLACE = Place("web1", "shop", "db1", 2, 60)
ALONE = Place("web1", "shop", "", 2, 60)
SESSION = {
    "pid": 4242,
    "role": "shop",
    "application": "",
    "address": "10.0.0.12",
    "state": "idle in transaction",
    "since": "2026-01-31 14:05:00",
    "query": 'UPDATE "shop_item" SET "note" = …',
}
RESULT: dict[str, Any] = {
    "status": "locked",
    "tries": 10,
    "migration": "shop.0007_price",
    "undone": True,
    "applied": [],
    "sessions": [SESSION],
    "error": "canceling statement due to lock timeout",
    "invalid_indexes": [],
}


class LockNotAvailableError(Exception):
    """As psycopg 3 says it."""

    sqlstate = "55P03"


def wrapped(cause: Exception) -> Exception:
    """Return an error of Django's that came from one of psycopg's."""
    error = RuntimeError("of Django's")
    error.__cause__ = cause
    return error


def outcome(*ends: Exception | None, **now: Any) -> tuple[dict[str, Any], list[float]]:
    """Return what becomes of attempts that end so, with three tries, and the pauses between."""
    state, pauses, left = migrate_site.Now(), list[float](), list(ends)
    vars(state).update(now)

    def migrate() -> None:
        if end := left.pop(0):
            raise end

    result = migrate_site.attempts(migrate, state, 3, pauses.append)
    assert not left
    return result, pauses


def test_lock_that_is_free_later() -> None:
    """What was rolled back is tried again, after pauses in which pages get their turn."""
    result, pauses = outcome(*[wrapped(LockNotAvailableError())] * 2, None)
    assert (result["status"], result["tries"], pauses) == ("applied", 3, [1, 2])


def test_lock_that_stays_taken() -> None:
    """The number of tries is bounded, and who was seen in the way is handed on."""
    result, pauses = outcome(*[wrapped(LockNotAvailableError())] * 3, sessions=[SESSION])
    assert (result["status"], result["tries"], len(pauses)) == ("locked", 3, 2)
    assert (result["undone"], result["sessions"]) == (True, [SESSION])


def test_half_of_a_migration_is_not_tried_again() -> None:
    """One that is not atomic, and has carried something out, is left as it is."""
    result, _ = outcome(wrapped(LockNotAvailableError()), atomic=False, done=1)
    assert (result["status"], result["tries"], result["undone"]) == ("locked", 1, False)
    result, _ = outcome(wrapped(LockNotAvailableError()), None, atomic=False, done=0)
    assert result["status"] == "applied"


@pytest.mark.parametrize("error", [ValueError("wrong"), SystemExit(1)])
def test_other_errors_are_not_tried_again(error: Exception) -> None:
    """What fails by itself fails once."""
    result, _ = outcome(error)
    assert (result["status"], result["tries"], result["error"]) == ("failed", 1, str(error))


def said(place: Place = PLACE, **changed: Any) -> str:
    """Return what is said of a result."""
    return stopped(place, {**RESULT, **changed})


def test_who_is_in_the_way() -> None:
    """The session, whose, from where, what it did last and since when; and what to type."""
    assert said() == (
        "web1: site shop: shop.0007_price waited for a lock for 2 s, 10 times over, and gave way, so"
        " that pages do not wait for it; nothing of it was applied in this run, and what served"
        " before serves on. The lock is held by session 4242 of shop from 10.0.0.12, idle in"
        " transaction, its transaction open since 2026-01-31 14:05:00 UTC: UPDATE"
        ' "shop_item" SET "note" = …. Wait for its end, or type on db1: runuser -u postgres -- psql'
        " -c 'select pg_terminate_backend(4242);'; then deploy again"
    )
    hidden = {**SESSION, "role": "postgres", "application": "pg_\x1bdump", "state": None}
    words = said(ALONE, sessions=[hidden], tries=1)
    assert words.endswith(
        "waited for a lock for 2 s, and gave way, so that pages do not wait for it; nothing of it was"
        " applied in this run, and what served before serves on. The lock is held by session 4242 of"
        " postgres (pg_?dump), of which only a superuser may see more. Wait for its end, or type on the"
        " primary: runuser -u postgres -- psql -c 'select pg_terminate_backend(4242);'; then deploy"
        " again"
    )
    assert said(sessions=[]).endswith("Who held the lock could not be seen; deploy again")


def test_what_is_left_half_done() -> None:
    """One that is not atomic: what it did stays, and an index that is not valid is named."""
    words = said(
        status="failed",
        undone=False,
        applied=["shop.0005_a", "shop.0006_b"],
        invalid_indexes=["price_ix"],
    )
    assert words == (
        "web1: site shop: shop.0007_price failed, as Django says above; shop.0005_a and shop.0006_b"
        " came about before and stay; it is not atomic (atomic = False), so what it did before stays,"
        " and Django will begin it anew: compare the tables with: tierstack-manage shop sqlmigrate"
        " shop 0007_price; the index price_ix was begun and is not valid; type: tierstack-manage shop"
        " shell -c 'from django.db import connection; connection.cursor().execute(\"DROP INDEX"
        " CONCURRENTLY price_ix\")'; what served before serves on. Correct it, and deploy again"
    )


def test_names_of_the_sites_are_no_commands() -> None:
    """What somebody is to type as root stands in words that the site has chosen."""
    words = said(
        status="failed",
        migration="shop.0007;reboot",
        undone=False,
        invalid_indexes=['"Price"\'; reboot #\x1b'],
    )
    assert "tierstack-manage shop sqlmigrate shop '0007;reboot';" in words
    typed = words.rpartition("is not valid; type: ")[2].partition("; what served before")[0]
    *_, code = arguments = shlex.split(typed)
    assert arguments[:-1] == ["tierstack-manage", "shop", "shell", "-c"]
    assert code.endswith("""execute("DROP INDEX CONCURRENTLY \\"Price\\"'; reboot #\\u001b")""")
    strange = said(sessions=[{**SESSION, "pid": "1); drop"}, SESSION])
    assert strange == said()


def test_password_that_is_not_the_databases() -> None:
    """It was changed, and the run has left out the hosts where it is set."""
    error = 'connection failed: FATAL:  password authentication failed for user "shop"'
    assert said(ALONE, status="failed", migration="", error=error) == (
        "web1: site shop: PostgreSQL does not take its password: it has changed in the secrets file,"
        " and the hosts where it is set have no part in this run; deploy without --limit; what served"
        " before serves on"
    )


#: As psycopg says it, and as its pool logs it before it gives up.
NO_ZONE = 'invalid value for parameter "TimeZone": "America/Coyhaique"'
NO_ZONE_IN_POOL = (
    f"couldn't get a connection after 30.00 sec error connecting in 'pool-1': {NO_ZONE}"
)


@pytest.mark.parametrize("error", [NO_ZONE, NO_ZONE_IN_POOL])
def test_time_zone_that_the_database_hosts_do_not_know(error: str) -> None:
    """The setting, the zone, the host, what to do: nothing of Django's is needed beside it."""
    failed: dict[str, Any] = {"status": "failed", "migration": "", "error": error}
    failed["zone_setting"] = "TIME_ZONE"
    assert said(**failed) == (
        "web1: site shop: TIME_ZONE is 'America/Coyhaique', a time zone that PostgreSQL on db1 does"
        " not know; write one that it does (type there: runuser -u postgres -- psql -c 'table"
        " pg_timezone_names'), or bring its tzdata up to date (apt-get update && apt-get install"
        " tzdata), and deploy again; what served before serves on"
    )
    assert "that PostgreSQL on the primary does not know" in said(ALONE, **failed)
    # A migration that sets one is not the setting's fault.
    failed["migration"] = "shop.0007_price"
    assert "shop.0007_price failed, as Django says above" in said(**failed)


@pytest.mark.parametrize(
    ("database", "named"),
    [
        ({"TIME_ZONE": None, "OPTIONS": {}}, "TIME_ZONE"),
        ({"TIME_ZONE": "Mars/Olympus", "OPTIONS": {}}, "DATABASES['default']['TIME_ZONE']"),
        (
            {"TIME_ZONE": None, "OPTIONS": {"options": "-c TimeZone=Mars/Olympus"}},
            "DATABASES['default']['OPTIONS']['options']",
        ),
    ],
)
def test_setting_that_names_the_time_zone(database: dict[str, Any], named: str) -> None:
    """Django has two, and a connection's options a third."""
    assert migrate_site.zone_setting(SimpleNamespace(settings_dict=database)) == named


def test_site_that_does_not_start() -> None:
    """Nothing was tried."""
    assert stopped(PLACE, None) == (
        "web1: site shop: its migrations cannot be applied, as Django says above; correct it, and"
        " deploy again; what served before serves on"
    )


def test_migrations_that_take_too_long() -> None:
    """Nobody knows which one it was: the site's own command tells."""
    assert too_long(PLACE) == (
        "web1: site shop: its migrations took longer than 60 s (db.migration_s) and were ended, and"
        " what is atomic of them was rolled back; see what came about: tierstack-manage shop"
        " showmigrations; find out what they wait for, or write a larger db.migration_s, and deploy"
        " again; what served before serves on"
    )
