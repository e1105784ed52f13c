"""Cache hosts share the keys, standbys share the reads: what one more, or one less, changes."""

from __future__ import annotations

import shlex

from tests.operator import Operator, assert_nothing_changed, wait_until
from tests.stories.conftest import SETTINGS
from tests.visitor import steady_visitor

CACHES = "cache = [\n"
THIRD = 'cache = [\n    lab_host("cache3", 33),\n'
SITE = 'source="example",'
ALIAS = 'source="example",\n        replica_alias="replica",'
ROUTER = "example/src/mysite/reads.py"
KEYS = 300

_ROUTER = """
class Router:
    def db_for_read(self, model, **hints):
        return "replica" if model._meta.app_label == "articles" else None
"""

_WHO = """
from django.db import connections
with connections["replica"].cursor() as cursor:
    cursor.execute("select pg_is_in_recovery(), host(inet_server_addr())")
    print("reads:", *cursor.fetchone())
"""


def test_each_has_its_share(operator: Operator) -> None:
    """
    A third cache host takes a third of the keys, wherever its line stands, and the others stay where
    they are; without it, all are where they were.

    The alias for reads leads to the standby from every web host, and to the primary while there is
    none; the site's router has sent articles there, and visitors get them all the time.
    """
    remember(operator, "before")
    operator.edit(CACHES, THIRD)
    operator.edit(SITE, ALIAS, "group_data/all.py")
    (operator.home / ROUTER).write_text(_ROUTER, encoding="utf-8")
    router = 'DATABASE_ROUTERS = ["mysite.reads.Router"]\n'
    operator.edit("SESSION_ENGINE", f"{router}SESSION_ENGINE", SETTINGS)
    operator.lab("up", str(operator.inventory))
    operator.deploy_well()
    assert_two_thirds(known(operator, "before"))
    remember(operator, "meanwhile")
    assert known(operator, "meanwhile") == KEYS
    assert_reads_follow_the_standby(operator)
    assert_nothing_changed(operator.deploy())

    operator.edit(THIRD, CACHES)
    operator.edit(ALIAS, SITE, "group_data/all.py")
    operator.edit(router, "", SETTINGS)
    (operator.home / ROUTER).unlink()
    operator.deploy_well()
    assert_two_thirds(known(operator, "meanwhile"))
    assert known(operator, "before") == KEYS


def remember(operator: Operator, what: str) -> None:
    """Put values into the site's cache, under names of this kind."""
    shell(
        operator,
        "web1",
        "from django.core.cache import cache\n"
        f"assert cache.set_many({{f'{what}-{{n}}': n for n in range({KEYS})}}, None) == []",
    )


def known(operator: Operator, what: str) -> int:
    """Return how many of them another web host finds."""
    found = shell(
        operator,
        "web2",
        "from django.core.cache import cache\n"
        f"print('found:', len(cache.get_many([f'{what}-{{n}}' for n in range({KEYS})])))",
    )
    return int(found.partition("found:")[2])


def assert_two_thirds(kept: int) -> None:
    """Of so many keys that each go one of three ways, two thirds stay, give or take what is chance."""
    assert 160 < kept < 240, kept


def assert_reads_follow_the_standby(operator: Operator) -> None:
    """Reads come from db2; when it stops, from db1, and visitors go on; then from db2 again."""
    cluster = operator.cluster()
    db1, db2 = (host.address for host in cluster.tier("db"))
    primary, standby = f"reads: False {db1}", f"reads: True {db2}"
    webs = [host.name for host in cluster.tier("web")]
    assert [shell(operator, web, _WHO) for web in webs] == [standby] * 3
    with steady_visitor(operator.door, "/status.json", per_second=10) as seen:
        wait_until("Apache's workers read from db2", lambda: readers(operator, "db2") > 2)
        operator.ask("db2", "systemctl stop postgresql@15-main")
        assert [shell(operator, web, _WHO) for web in webs] == [primary] * 3
        assert operator.door.ask("/status.json").json()["articles"] >= 3
        operator.ask("db2", "systemctl start postgresql@15-main")
        wait_until("db2 is read from again", lambda: shell(operator, "web1", _WHO) == standby)
    assert seen.requests > 20
    # Who is in the middle of a query when its server stops is told so.
    assert len(seen.failed) <= 1, seen.failed


def readers(operator: Operator, host: str) -> int:
    """Return how many connections of the site a database host has."""
    query = "select count(*) from pg_stat_activity where usename = 'example'"
    return int(operator.ask(host, f'runuser -u postgres -- psql -At -c "{query}"'))


def shell(operator: Operator, host: str, program: str) -> str:
    """Return what a program prints that runs with the site's settings on a host."""
    return operator.ask(
        host, f"tierstack-manage example shell -v 0 --command {shlex.quote(program)}"
    )
