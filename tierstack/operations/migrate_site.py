"""Runs in a site's own Django, never imported on the controller: applies its migrations.

A migration that changes a table waits for whoever reads or writes it, and everybody who comes
later waits behind it: one transaction that somebody has left open would stop every page of the
site. So it waits for a short while only, lets those behind it through, and tries again.

Source: PostgreSQL 15 manual, 13.3.1 ("Table-Level Locks") and 20.11.1 (`lock_timeout`);
Django 5.2, "Database instrumentation" and "Schema migrations: transactions".
"""

from __future__ import annotations

import json
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any

MARK = "tierstack-migrated: "

#: What PostgreSQL ends a statement with that has waited for too long, or in a circle:
#: lock_not_available and deadlock_detected.
LOCKED = ("55P03", "40P01")

#: How long a statement runs before it is asked whom it waits for, and how often, in seconds.
ASK_AFTER_S, ASK_EVERY_S = 0.6, 0.3

#: Longest pause between two tries, in seconds.
PAUSE_S = 5

INVALID_SQL = "SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisvalid ORDER BY 1"


class Now:
    """What is being done, for the one who watches."""

    def __init__(self) -> None:
        self.pid = 0
        self.begun: float | None = None
        self.sessions: list[dict[str, Any]] = []
        #: The migration that is under way, and how many of its statements have ended well.
        self.migration, self.atomic, self.done = "", True, 0
        self.applied: list[str] = []
        self.ended = threading.Event()


def main(request: dict[str, Any]) -> None:
    """Apply the migrations; print what has become of them, as JSON behind MARK."""
    from django.core.management import call_command
    from django.db import connection
    from django.db.backends.signals import connection_created
    from django.db.migrations.executor import MigrationExecutor

    now = Now()
    note_migrations(MigrationExecutor, now)

    def prepare(connection: Any, **_: object) -> None:
        if connection.alias == "default":
            settings = {
                "lock_timeout": f"{request['lock_s']}s",
                # A session whose client is gone ends, also while it waits for a lock.
                "client_connection_check_interval": "1s",
                "application_name": request["name"],
            }
            with connection.connection.cursor() as cursor:
                for name, value in settings.items():
                    cursor.execute("SELECT set_config(%s, %s, false)", [name, value])
                cursor.execute("SELECT pg_backend_pid()")
                if threading.current_thread() is threading.main_thread():
                    now.pid = cursor.fetchone()[0]

    connection_created.connect(prepare, weak=False)
    connection.close()
    watcher = threading.Thread(target=watch, args=(now, request["sessions_sql"]), daemon=True)
    watcher.start()
    with connection.execute_wrapper(measured(connection, now, request)):
        result = attempts(
            lambda: call_command("migrate", interactive=False, no_color=True, skip_checks=False),
            now,
            request["tries"],
        )
    now.ended.set()
    watcher.join(5)
    if result["status"] != "applied":
        result["invalid_indexes"] = invalid_indexes(connection)
        result["zone_setting"] = zone_setting(connection)
    print("\n" + MARK + json.dumps(result), flush=True)


def attempts(
    migrate: Callable[[], object],
    now: Now,
    tries: int,
    sleep: Callable[[float], object] = time.sleep,
) -> dict[str, Any]:
    """
    Migrate, again and again where it is a lock that is missing; return what has become of it.

    What is not atomic is tried again only if nothing of it was carried out.
    """
    for number in range(1, tries + 1):
        try:
            migrate()
        # What a site's migration may raise nobody knows, and a SystemExit is no good end either.
        except BaseException as error:
            locked = is_locked(error)
            undone = now.atomic or now.done == 0
            if locked and undone and number < tries:
                sleep(min(number, PAUSE_S))
                continue
            if not locked:
                traceback.print_exc()
            return {
                "status": "locked" if locked else "failed",
                "tries": number,
                "migration": now.migration,
                "undone": undone,
                "applied": now.applied,
                "sessions": now.sessions if locked else [],
                "error": " ".join(str(error).split())[:4000],
            }
        return {"status": "applied", "tries": number, "applied": now.applied}
    raise ValueError("tries")


def is_locked(error: BaseException | None) -> bool:
    """Return whether an error, or one that it came from, is that a lock could not be had."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        seen.append(error)
        # psycopg 3 and psycopg2 each have a name of their own for it.
        code = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
        if code in LOCKED:
            return True
        error = error.__cause__ or error.__context__
    return False


def note_migrations(executor: Any, now: Now) -> None:
    """Have Django's executor say which migration it applies."""
    apply = executor.apply_migration

    def apply_migration(
        self: Any, state: Any, migration: Any, *arguments: Any, **options: Any
    ) -> Any:
        now.migration, now.atomic, now.done = str(migration), migration.atomic, 0
        result = apply(self, state, migration, *arguments, **options)
        now.applied.append(now.migration)
        now.migration, now.atomic, now.done = "", True, 0
        return result

    executor.apply_migration = apply_migration


def measured(connection: Any, now: Now, request: dict[str, Any]) -> Callable[..., Any]:
    """Return a wrapper of statements that notes when each began and how many have ended well."""

    def wait_at_most(seconds: int) -> None:
        with connection.connection.cursor() as cursor:
            cursor.execute(f"SET lock_timeout = '{seconds:d}s'")

    def execute(run: Callable[..., Any], sql: Any, params: Any, many: Any, context: Any) -> Any:
        # It waits for transactions to end, and holds nobody up meanwhile; cut off, it leaves an
        # index behind that is of no use.
        patient = not connection.in_atomic_block and "CONCURRENTLY" in str(sql).upper()
        if patient:
            wait_at_most(request["concurrently_s"])
        now.begun = time.monotonic()
        try:
            result = run(sql, params, many, context)
            now.done += 1
            return result
        finally:
            now.begun = None
            if patient:
                with suppress(Exception):
                    wait_at_most(request["lock_s"])

    return execute


def watch(now: Now, sessions_sql: str) -> None:
    """Note whom a statement waits for; over a connection of its own, made if one takes long."""
    from django.db import connection

    while not now.ended.wait(ASK_EVERY_S):
        begun = now.begun
        if begun is None or time.monotonic() - begun < ASK_AFTER_S:
            continue
        # Without a free connection, or while the primary restarts, nobody is named.
        with suppress(Exception), connection.cursor() as cursor:
            cursor.execute(sessions_sql.replace("PIDS", f"pg_blocking_pids({now.pid:d})"))
            found = cursor.fetchone()[0]
            found = json.loads(found) if isinstance(found, str) else found
            now.sessions = found or now.sessions
    with suppress(Exception):
        connection.close()


def zone_setting(connection: Any) -> str:
    """
    Return which setting says a connection's time zone.

    Source: Django documentation, "Settings", TIME_ZONE of DATABASES; PostgreSQL 15 manual, 34.1.2.
    """
    found = connection.settings_dict
    if "timezone" in str(found["OPTIONS"].get("options", "")).lower():
        return "DATABASES['default']['OPTIONS']['options']"
    return "DATABASES['default']['TIME_ZONE']" if found["TIME_ZONE"] else "TIME_ZONE"


def invalid_indexes(connection: Any) -> list[str]:
    """Return indexes that were begun and have not come about."""
    try:
        with connection.cursor() as cursor:
            cursor.execute(INVALID_SQL)
            return [row[0] for row in cursor.fetchall()]
    except Exception:
        return []
