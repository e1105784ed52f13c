"""An empty database is only made where there was none: what is said where the old one is elsewhere."""

from __future__ import annotations

from typing import Any

from tests.model.conftest import Home
from tierstack.model.database_home import judge_home

NONE = {"present": False, "configured": False, "ours": False, "standby": False}
PRIMARY = {"present": True, "configured": True, "ours": True, "standby": False}
STANDBY = {**PRIMARY, "standby": True}
WEB1, DB1, DB2 = "10.0.0.11", "10.0.0.21", "10.0.0.22"


def refused(home: Home, start_empty: str = "", used: tuple[str, ...] = (), **database: Any) -> str:
    """Return what is said of db1 and db2 when these hosts have these databases, and webs use `used`."""
    cluster = home.load()
    answers = {
        host.name: {
            "database": database.get(host.name, NONE),
            "database_hosts": list(used) if "web" in host.tiers else [],
        }
        for host in cluster.hosts
        if database.get(host.name, NONE) is not None
    }
    said = "; ".join(str(mistake) for mistake in judge_home(cluster, answers, start_empty))
    return said.replace(f"{home.path}/", "")


def test_first_deploy_starts_empty(home: Home) -> None:
    """Where no web host was deployed with a database, there is none to be lost."""
    assert refused(home) == ""


def test_database_is_where_it_was(home: Home) -> None:
    """One of the db hosts has it, whatever their addresses were; or had it, and is judged elsewhere."""
    assert refused(home, used=("10.0.0.99",), db2=PRIMARY) == ""
    assert refused(home, used=(DB1,), db1={**NONE, "configured": True}) == ""


def test_database_on_a_host_that_is_no_db_host_any_more(home: Home) -> None:
    """The chapter's first step: the way is to have both, to switch over, then to leave one out."""
    assert refused(home, used=(WEB1,), web1=PRIMARY) == (
        "db: db1 and db2 hold no database, and the sites' is on web1; write web1 in db as well,"
        " deploy, type pyinfra prod.py tasks/switchover.py --data to=db1, and then take web1 out of"
        " db; or, to start with an empty one, add --data start_empty=db1, and what is on web1 is used"
        " no more"
    )
    assert refused(home, used=(WEB1,), web1=PRIMARY, start_empty="db1") == ""


def test_database_that_is_nowhere(home: Home) -> None:
    """Its host has left the inventory, or lost its disk; a copy of old is not taken for it."""
    expected = (
        "db: db1 and db2 hold no database, and web1 and web2 have the sites' at 10.0.0.99; put that"
        " host back in db, with the disk; or, to start with an empty one, add --data start_empty=db1,"
        " and what the sites have stored is used no more"
    )
    assert refused(home, used=("10.0.0.99",)) == expected
    assert refused(home, used=("10.0.0.99",), web1=STANDBY) == expected
    assert refused(home, used=("10.0.0.99",), start_empty="db2") == expected
    assert refused(home, used=("10.0.0.99",), start_empty="db1") == ""
    assert "at 10.0.0.21 and 10.0.0.22; put these hosts back" in refused(home, used=(DB1, DB2))


def test_unknown_hosts(home: Home) -> None:
    """A host that this run leaves out might have the database: refused, not guessed."""
    assert refused(home, web1=None, cache1=None) == (
        "db: db1 and db2 hold no database, and whether there is one cannot be told without web1 and"
        " cache1, not asked in this run; deploy without --limit"
    )
    assert refused(home, db1=None) == ""
