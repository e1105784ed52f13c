"""A site's migrations: applied once, without holding up who visits the site meanwhile.

Reason: Django's own command waits for locks without end, and goes on when the run that has asked for
it is gone.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Generator
from typing import Any

from pyinfra import host, logger
from pyinfra.api.command import PyinfraCommand
from pyinfra.api.facts import FactBase
from pyinfra.api.operation import operation

from tierstack.agents.web_release import CHECK_S
from tierstack.model.migrations import SESSIONS_SQL, Place, not_let_in, stopped, too_long
from tierstack.model.plan import Effect
from tierstack.operations.gate import Refuse
from tierstack.operations.lock_agent import LOCK
from tierstack.operations.postgres import MAINTENANCE
from tierstack.operations.release import PROGRAM
from tierstack.operations.remote import HostError, source_of, tell_program

#: How long a statement may wait that holds nobody up meanwhile (CREATE INDEX CONCURRENTLY), in s.
_CONCURRENTLY_S = 600


class Migrated(FactBase[str]):
    """
    Whether a site's migrations are "applied" or "pending".

    "" where it cannot be told: no such release yet, or no answer from the database.
    """

    def command(self, account: str, manage: str) -> str:
        # With what it has started it ends, and does not take for ever.
        properties = {
            "User": account,
            "RuntimeMaxSec": CHECK_S,
            "KillMode": "control-group",
            "KillSignal": "SIGKILL",
            "NoNewPrivileges": "yes",
            "StandardOutput": "null",
            "StandardError": "null",
        }
        unit = ["systemd-run", "--quiet", "--wait", "--collect"]
        unit += [f"--property={name}={value}" for name, value in properties.items()]
        manage = shlex.join([*unit, "--", manage])
        # `--check` fails in the same way when it cannot look.
        return (
            f"if {manage} migrate --check; then echo applied;"
            f" elif {manage} showmigrations; then echo pending; fi"
        )

    @staticmethod
    def default() -> str:
        return ""

    def process(self, output: list[str]) -> str:
        return output[-1]


@operation()
def migrations(
    site: str,
    account: str,
    manage: str,
    runs_on: str,
    primary: str,
    lock_s: int,
    tries: int,
    limit_s: int,
) -> Generator[PyinfraCommand, None, None]:
    """
    Apply the migrations of a site.

    Args:
        site: the site's name.
        account: the account that its code runs as.
        manage: its manage.py.
        runs_on: name of the host that applies them; any other only looks, and refuses if some
            are missing.
        primary: name of the host with the database; "" if it has no part in the run.
        lock_s: how long a statement waits for a lock, in seconds.
        tries: how often it is tried.
        limit_s: longest that all of them may work, in seconds.
    """
    found = host.get_fact(Migrated, account=account, manage=manage)
    if found == "applied":
        return
    if host.name != runs_on:
        yield Refuse(
            f"{host.name}: site {site} has migrations to apply, and {runs_on}, which applies them,"
            f" has no part in this run; deploy without --limit, or with --limit {runs_on} as well"
        )
        return
    condition = "" if found else "if any are missing, which cannot be told now"
    effect = Effect(notes=(f"applies migrations of {site}",), condition=condition)
    request = {
        "name": f"migrations of {site}",
        "lock_s": lock_s,
        "tries": tries,
        "concurrently_s": _CONCURRENTLY_S,
        "sessions_sql": SESSIONS_SQL,
    }
    place = Place(host.name, site, primary, lock_s, limit_s)
    yield _Migrate(place, account, manage, request, effect)


class _Migrate(PyinfraCommand):
    def __init__(
        self, place: Place, account: str, manage: str, request: dict[str, Any], effect: Effect
    ) -> None:
        super().__init__()
        self._place = place
        self._request = {
            "account": account,
            "manage": manage,
            "lock": LOCK,
            "limit_s": place.limit_s,
            "programs": PROGRAM,
            "program": f"{source_of('migrate_site.py')}\n\nmain(json.loads({json.dumps(request)!r}))\n",
        }
        #: Why it has failed, and what Django has said before.
        self.sentence = ""
        self.said: list[str] = []
        self.effect = effect

    def __repr__(self) -> str:
        return f"Migrate({self._place.site!r})"

    def execute(self, state: Any, host: Any, connector_arguments: Any) -> bool:
        """Have the host apply them, however long that takes; say who was in the way."""
        try:
            said = json.loads(
                tell_program(host.name, "migrate_agent.py", self._request, None).splitlines()[-1]
            )
        except HostError as error:
            self.sentence = f"{error}; whether migrations came about, the next run sees"
            logger.error(f"{host.print_prefix}{self.sentence}")
            return False
        result = said["result"]
        if result and result["status"] == "applied":
            return True
        if result:
            # A pool keeps the server's own words to itself, and to what it logs.
            result = {**result, "error": " ".join([result["error"], *said["output"]])}
        if not (result and not_let_in(self._place, result)):
            self.said = said["output"]
            for line in self.said:
                logger.error(f"{host.print_prefix}{line}")
        if result and self._place.primary:
            result = {**result, "sessions": self._in_full(result["sessions"])}
        self.sentence = too_long(self._place) if said["ended"] else stopped(self._place, result)
        logger.error(f"{host.print_prefix}{self.sentence}")
        return False

    def _in_full(self, sessions: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return sessions with what only a superuser sees of them, while they are still there."""
        hidden = [one["pid"] for one in sessions if not one["state"]]
        if not hidden:
            return sessions
        pids = f"ARRAY[{', '.join(str(int(pid)) for pid in hidden)}]"
        sql = SESSIONS_SQL.replace("PIDS", pids)
        try:
            request = {"verb": "ask", "database": MAINTENANCE, "sql": sql}
            told = tell_program(self._place.primary, "postgres_agent.py", request)
        except HostError:
            return sessions
        known = {one["pid"]: one for one in json.loads(told.splitlines()[-1])}
        return [known.get(one["pid"], one) for one in sessions]
