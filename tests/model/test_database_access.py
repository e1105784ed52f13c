"""What the db role makes of a cluster: access rules from the flows, SQL for what is missing only."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from typing import Any

import pytest

from roles.db import configuration
from tests.model.conftest import Home
from tierstack.model.passwords import scram_verifier
from tierstack.operations import postgres
from tierstack.operations.config import File
from tierstack.operations.postgres import Database, Role
from tierstack.secrets import load_secrets

HBA = "/etc/postgresql/15/main/pg_hba.tierstack.conf"
RIGHTS = {"login": True, "superuser": False, "createdb": False, "createrole": False}


def files(home: Home, access: Sequence[str] = ()) -> dict[str, str]:
    """Return the files of the first db host, where these access rules were before."""
    cluster = home.load()
    old = configuration.outdated(cluster, {"access": access})
    entries = configuration._files(cluster, cluster.host("db1"), load_secrets(cluster), old)
    return {entry.path: entry.content.decode() for entry in entries if isinstance(entry, File)}


def test_access_rules_are_the_flows(home: Home) -> None:
    """Web hosts reach their site's database, db hosts replicate, and there is no other way in."""
    rules = files(home)[HBA].splitlines()
    expected = [
        "local all postgres peer",
        'hostssl "blog" "blog" 10.0.0.11/32 scram-sha-256',
        'hostssl "blog" "blog" 10.0.0.12/32 scram-sha-256',
        "hostssl replication tierstack_replication 10.0.0.21/32 scram-sha-256",
        "hostssl replication tierstack_replication 10.0.0.22/32 scram-sha-256",
    ]
    assert expected == [line for line in rules if not line.startswith("#")]


def test_old_access_rules_stay_during_a_run(home: Home) -> None:
    """Who was let in before is let in beside the wanted ones; what is not ours is not kept."""
    wanted = files(home)[HBA].splitlines()
    gone = 'hostssl "blog" "blog" 10.0.0.19/32 scram-sha-256'
    by_hand = ["hostssl all all 10.0.0.0/8 trust", "hostssl nonsense"]
    kept = files(home, [*wanted, gone, *by_hand])[HBA].splitlines()
    assert kept == [*wanted[:5], gone, *wanted[5:]]


def test_a_host_follows_the_others(home: Home) -> None:
    """A db host would follow each of the others, with its own slot, and checks who answers."""
    settings = files(home)["/etc/postgresql/15/main/conf.d/60-tierstack-reload.conf"]
    assert "primary_conninfo = 'host=10.0.0.22 port=5432 user=tierstack_replication" in settings
    assert "sslmode=verify-ca" in settings
    assert "primary_slot_name = 'tierstack_db1'" in settings


def test_single_host_follows_nobody(home: Home) -> None:
    """One db host alone has nobody to follow."""
    home.inventory(
        """
        balancer = [("lb1", {"address": "10.0.0.10", "memory_mb": 1024})]
        web = [("web1", {"address": "10.0.0.11", "memory_mb": 1024})]
        db = [("db1", {"address": "10.0.0.21", "memory_mb": 2048})]
        cache = [("cache1", {"address": "10.0.0.31", "memory_mb": 512})]
        media = [("media1", {"address": "10.0.0.41", "memory_mb": 512})]
        """
    )
    settings = files(home)["/etc/postgresql/15/main/conf.d/60-tierstack-reload.conf"]
    assert "primary_conninfo = ''" in settings


def test_role_is_made_once() -> None:
    """A role is made with its rights and a verifier; as it then is, nothing is left to do."""
    role = Role("blog", "it's secret")
    made = list(postgres._role_sql(role, {}))
    expected = 'CREATE ROLE "blog" LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION;'
    assert expected == made[0]
    assert made[1].startswith('ALTER ROLE "blog" PASSWORD \'SCRAM-SHA-256$4096:')
    assert "secret" not in "".join(made)
    verifier = scram_verifier("it's secret", b"salt")
    now: dict[str, Any] = {
        **RIGHTS,
        "replication": False,
        "salt": base64.b64encode(b"salt").decode(),
        "iterations": 4096,
        "digest": hashlib.sha256(verifier.encode()).hexdigest(),
    }
    assert list(postgres._role_sql(role, {"blog": now})) == []


def test_role_loses_rights_that_it_should_not_have() -> None:
    """A role that became a superuser is one no longer."""
    now = {
        **RIGHTS,
        "superuser": True,
        "replication": False,
        "salt": "",
        "iterations": 0,
        "digest": "",
    }
    altered = list(postgres._role_sql(Role("blog", "secret"), {"blog": now}))
    expected = 'ALTER ROLE "blog" LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION;'
    assert [expected] == altered


@pytest.mark.parametrize("replication", [False, True])
def test_role_that_is_there_keeps_its_password(replication: bool) -> None:
    """A site's new password waits for its web nodes; that of replication is set with the rest."""
    verifier = scram_verifier("old", b"salt")
    now = {
        **RIGHTS,
        "replication": replication,
        "salt": base64.b64encode(b"salt").decode(),
        "iterations": 4096,
        "digest": hashlib.sha256(verifier.encode()).hexdigest(),
    }
    role = Role("blog", "new", replication)
    assert len(list(postgres._role_sql(role, {"blog": now}))) == replication
    assert len(list(postgres._password_sql(role, now))) == 1
    assert not list(postgres._password_sql(Role("blog", "old", replication), now))


def test_database_is_made_once() -> None:
    """A database is made for its owner alone, with its extensions; then nothing is left to do."""
    wanted = Database("blog", "blog", ("citext",))
    expected = [
        (
            "postgres",
            'CREATE DATABASE "blog" OWNER "blog" TEMPLATE template0 ENCODING \'UTF8\''
            " LC_COLLATE 'C.UTF-8' LC_CTYPE 'C.UTF-8';",
        ),
        ("postgres", 'REVOKE CONNECT, TEMPORARY ON DATABASE "blog" FROM PUBLIC;'),
        ("blog", 'ALTER SCHEMA public OWNER TO "blog";'),
        ("blog", 'CREATE EXTENSION "citext";'),
    ]
    assert expected == list(postgres._database_sql(wanted, {}))
    now = {"owner": "blog", "open": False, "public_owner": "blog", "extensions": ["citext"]}
    assert list(postgres._database_sql(wanted, {"blog": now})) == []
