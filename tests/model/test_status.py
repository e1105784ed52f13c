"""What hosts say is judged line by line."""

from __future__ import annotations

import datetime
from dataclasses import replace
from typing import Any

import pytest

from tests.model.conftest import HOSTS, Home
from tests.model.test_certificate import NOW, Issuer
from tierstack.model import Cluster
from tierstack.operations.haproxy import Server
from tierstack.status import Node, judge

ISSUER = Issuer("Somebody")


def answers() -> dict[str, Any]:
    """Return what the hosts of a healthy cluster say."""
    web = {
        "units": {"apache2": "active"},
        "drain": False,
        "hold": "",
        "firewall": "",
        "web": 200,
        "releases": {"blog": "abc"},
        "noted": ["blog"],
        "mounts": {"blog": True},
    }
    servers = [
        Server("web", name, "", "UP", sessions=0, check="L7OK 200", since_s=9)
        for name in ("web1", "web2", "media1")
    ]
    primary: dict[str, Any] = {
        "running": True,
        "in_recovery": False,
        "receiver": None,
        "lag_s": None,
        "standbys": [{"name": "tierstack_db2", "state": "streaming"}],
        "slots": [{"name": "tierstack_db2", "wal_status": "reserved"}],
    }
    standby: dict[str, Any] = {
        "running": True,
        "in_recovery": True,
        "receiver": {"status": "streaming"},
        "lag_s": 0.25,
        "standbys": [],
        "slots": [],
    }
    return {
        "lb1": {"units": {"haproxy": "active"}, "servers": servers},
        "web1": dict(web),
        "web2": dict(web),
        "db1": {"units": {"postgresql@15-main": "active"}, "db": primary},
        "db2": {"units": {"postgresql@15-main": "active"}, "db": standby},
        "cache1": {"units": {"memcached": "active"}, "cache": True},
        "media1": {"units": {"lighttpd": "active"}, "media": 200},
    }


def line(cluster: Cluster, said: dict[str, Any], host: str) -> Node:
    """Return the line of a host."""
    return next(node for node in judge(cluster, said) if node.host == host)


def test_second_writer_outside_the_inventory(home: Home) -> None:
    """What web hosts may write to beside the primary is told on the primary's line."""
    said = answers()
    said["db1"]["db"]["system_id"] = "71"
    other = {"is": "primary", "system_id": "71", "timeline": 1}
    (primary,) = [
        node
        for node in judge(home.load(), said, {"10.0.0.29": other})
        if node.tier == "db" and not node.good
    ]
    assert (primary.host, primary.notes) == (
        "db1",
        "10.0.0.29 takes writes as well, and web hosts may write there; a deploy says what to type",
    )
    for harmless in ({**other, "is": "standby"}, {**other, "system_id": "72"}):
        assert all(node.good for node in judge(home.load(), said, {"10.0.0.29": harmless}))


def test_storage_and_its_readers_have_their_lines(home: Home) -> None:
    """A storage host whose share is silent, and a media host that has lost it, are named."""
    home.inventory(HOSTS, 'storage = [("storage1", {"address": "10.0.0.51"})]')
    cluster, said = home.load(), answers()
    said["storage1"] = {"units": {"nfs-server": "active"}, "share": True}
    said["media1"]["mounts"] = {"blog": True}
    assert all(node.good for node in judge(cluster, said))
    assert line(cluster, said, "storage1") == Node("storage", "storage1", "up", "nfs share")
    assert line(cluster, said, "media1").serves == "media and static files"
    said["storage1"]["share"] = False
    said["media1"]["mounts"] = {"blog": False}
    assert "does not answer" in line(cluster, said, "storage1").notes
    assert line(cluster, said, "media1").notes == "MEDIA_ROOT is not mounted for blog"


def test_home_and_copies_have_their_parts(home: Home) -> None:
    """Who says that it has the uploads, has them; who sends or keeps no copy is named."""
    media = '[("media1", {"address": "10.0.0.41", "memory_mb": 512})'
    home.inventory(HOSTS.replace(media, f'{media}, ("media2", {{"address": "10.0.0.42"}})'))
    cluster, said = home.load(), answers()
    units = {"lighttpd": "active", "tierstack-copies": "inactive", "tierstack-copy": "active"}
    said["media1"] = {"units": units, "media": 200, "marks": {"blog": "copy"}}
    said["media2"] = {"units": units, "media": 200, "marks": {"blog": "home"}}
    said["lb1"]["servers"].append(
        Server("media", "media2", "", "UP", sessions=0, check="L7OK 200", since_s=9)
    )
    assert line(cluster, said, "media1").serves == (
        "media and static files, copy of uploads from media2"
    )
    assert line(cluster, said, "media1").good
    assert line(cluster, said, "media2").serves == (
        "media and static files, nfs share, home of uploads"
    )
    assert line(cluster, said, "media2").notes == (
        "tierstack-copies is inactive, and new uploads reach no copy; look: journalctl -u"
        " tierstack-copies"
    )
    said["media1"]["marks"] = {"blog": "home"}
    assert line(cluster, said, "media2").notes == (
        "it says that it has the uploads, as another host does; a deploy says what to type"
    )


def test_healthy_cluster_is_good(home: Home) -> None:
    """All is well: every line is good, and says who is what."""
    nodes = judge(home.load(), answers())
    assert [node.state for node in nodes] == [
        "up",
        "in rotation",
        "in rotation",
        "primary",
        "standby",
        "up",
        "in rotation",
    ]
    assert all(node.good for node in nodes)
    assert line(home.load(), answers(), "db2").serves == "0.2 s behind"


def test_silent_host_is_bad(home: Home) -> None:
    """A host that says nothing has its line, with the reason."""
    said = answers() | {"cache1": "Could not connect (timed out)"}
    assert line(home.load(), said, "cache1") == Node(
        "cache", "cache1", "does not answer", notes="Could not connect (timed out)", good=False
    )


def test_drained_node_is_out_of_rotation(home: Home) -> None:
    """A balancer that drains a node is quoted."""
    said = answers()
    servers = said["lb1"]["servers"]
    servers[0] = replace(servers[0], status="NOLB")
    assert line(home.load(), said, "web1").notes == "lb1 says NOLB"
    assert line(home.load(), said, "lb1").notes == "not in rotation: web1"


def test_two_primaries_are_bad(home: Home) -> None:
    """Two hosts that both believe they are primary: both lines say so."""
    said = answers()
    said["db2"]["db"] = dict(said["db1"]["db"])
    following: list[dict[str, str]] = said["db1"]["db"]["standbys"]
    for standbys in (following, []):  # Following somebody, or nobody any more.
        said["db1"]["db"]["standbys"] = said["db2"]["db"]["standbys"] = standbys
        for host in ("db1", "db2"):
            assert line(home.load(), said, host).notes == (
                "db1 and db2 take writes, each its own; a deploy says what to type"
            )


def test_standby_that_lost_its_place_is_named(home: Home) -> None:
    """A slot that the primary gave up: which standby, since when, what was lost, what to type."""
    cluster, said = home.load(), answers()
    slot = {"name": "tierstack_db2", "wal_status": "lost", "lost_at": "2026-01-31 14:05"}
    said["db1"]["db"] |= {"standbys": [], "slots": [slot]}
    assert line(cluster, said, "db1").notes == (
        "db2 is lost since 2026-01-31 14:05 UTC: it was away for more than 4096 MiB of WAL"
        " (db.slot_keep_mb); no row is lost; bring it up, then type: pyinfra"
        f" {home.path / 'prod.py'} deploy.py, which rebuilds it"
    )


def test_standby_that_is_about_to_lose_its_place_is_named(home: Home) -> None:
    """While it can still catch up, there is something else to do."""
    said = answers()
    slot = {"name": "tierstack_db2", "wal_status": "unreserved", "lost_at": None}
    said["db1"]["db"] |= {"standbys": [], "slots": [slot]}
    assert line(home.load(), said, "db1").notes == (
        "db2 has been away for more than 4096 MiB of WAL (db.slot_keep_mb), and db1 is about to drop"
        " what it lacks; bring it up now"
    )


def test_host_that_made_way_for_nobody_yet_is_named(home: Home) -> None:
    """Stopped or not: starting it would not make it the primary again, so what does is named."""
    home.inventory(HOSTS)
    cluster, said = home.load(), answers()
    for unit in ("inactive", "active"):
        said["db1"] = {"units": {"postgresql@15-main": unit}, "db": dict(said["db2"]["db"])}
        said["db1"]["db"]["made_way_for"] = "db2"
        found = line(cluster, said, "db1")
        assert (found.good, found.notes) == (
            False,
            "it made way for db2 in a switchover that did not end; type: pyinfra"
            f" {cluster.inventory} tasks/switchover.py --data to=db2",
        )


def test_missing_mount_is_bad(home: Home) -> None:
    """A web node without MEDIA_ROOT serves pages, and is not well."""
    said = answers()
    said["web2"]["mounts"] = {"blog": False}
    node = line(home.load(), said, "web2")
    assert (node.state, node.good) == ("in rotation", False)
    assert node.notes == "MEDIA_ROOT is not mounted for blog"


@pytest.mark.parametrize(
    ("firewall", "note"),
    [
        (
            "gone",
            "its firewall is not loaded, and whatever listens there is reached by everybody; type"
            " there: systemctl restart tierstack-firewall",
        ),
        (
            "closed",
            "its firewall has lost its rules, and lets in nothing but SSH; type: pyinfra"
            " {inventory} deploy.py",
        ),
    ],
)
def test_host_without_its_firewall_is_bad(home: Home, firewall: str, note: str) -> None:
    """It is named, once, beside what else is wrong with it."""
    cluster, said = home.load(), answers()
    said["db1"]["firewall"] = firewall
    node = line(cluster, said, "db1")
    assert (node.notes, node.good) == (note.format(inventory=cluster.inventory), False)
    said["web1"] |= {"firewall": firewall, "hold": "by jane"}
    assert line(cluster, said, "web1").notes.startswith("held back: by jane; its firewall ")


def test_ends_of_certificates_are_told(home: Home) -> None:
    """The front door's always; of the others the one that a deploy is due for."""
    near = ISSUER.sign(ISSUER.name, ISSUER.key, [], 80)
    soon = ISSUER.sign(ISSUER.name, ISSUER.key, [], 20)
    ended = ISSUER.sign(ISSUER.name, ISSUER.key, [], -1)
    cluster = home.load()
    said = answers()
    said["lb1"]["certificates"] = {"front": [ISSUER.pem, near]}
    said["web1"]["certificates"] = {"CA": [near]}
    said["web2"]["certificates"] = {"CA": [soon]}
    said["db1"]["certificates"] = {"database": [ended]}
    said["db2"]["certificates"] = {"database": [ISSUER.pem]}

    def day(days: int) -> str:
        return f"{NOW + datetime.timedelta(days=days, hours=1):%Y-%m-%d}"

    lines = {node.host: node for node in judge(cluster, said)}
    assert lines["lb1"].serves == f"3 of 3 nodes in rotation, certificate until {day(80)}"
    assert lines["lb1"].notes == f"its certificate ends on {day(80)}; deploy, which renews it"
    assert lines["web1"].notes == f"the cluster's CA ends on {day(80)}; deploy, which renews it"
    assert lines["web2"].notes == f"the cluster's CA ends on {day(20)}; deploy, which renews it"
    assert lines["db1"].notes == f"its certificate has ended on {day(-1)}; deploy, which renews it"
    assert [name for name, node in lines.items() if not node.good] == ["web2", "db1"]
    assert lines["db2"].notes == ""

    home.group("balancer", "certificate = 'site.pem'")
    (home.path / "site.pem").write_text("BEGIN CERTIFICATE PRIVATE KEY", encoding="utf-8")
    (home.path / "site.pem").chmod(0o600)
    cluster = home.load()
    assert line(cluster, said, "lb1").notes == ""
    said["lb1"]["certificates"] = {"front": [ISSUER.pem, soon]}
    found = line(cluster, said, "lb1")
    note = f"its certificate ends on {day(20)}; renew it, and deploy"
    assert (found.good, found.notes) == (False, note)


def test_host_with_another_firewall_is_bad(home: Home) -> None:
    """Its ports are named, unless it lets them in."""
    cluster, said = home.load(), answers()
    said["cache1"]["other_firewall"] = {"name": "ufw", "opened": [["tcp", 22]]}
    node = line(cluster, said, "cache1")
    assert (node.notes, node.good) == (
        "ufw is at work there too, and shuts tcp 11211, which the cluster lets in; type there: ufw"
        " disable, as the cluster's firewall takes its place, or let them in by ufw",
        False,
    )
    said["cache1"]["other_firewall"]["opened"].append(["tcp", 11211])
    assert line(cluster, said, "cache1").good
