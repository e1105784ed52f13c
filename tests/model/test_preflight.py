"""What hosts say of themselves is judged in full sentences; a good host is let through."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.model.conftest import SITES, Home
from tierstack.model import Cluster
from tierstack.model.preflight import clock_offset_s, judge, no_answer, noise, question
from tierstack.operations.other_firewall import opened_by_firewalld, opened_by_ufw

#: A program of a host's, without types.
preflight_agent: Any = importlib.import_module("tierstack.operations.preflight_agent")

ROOM = {"mount": "/", "free_mb": 9000, "free_inodes": 90000, "read_only": False, "noexec": False}
PACKAGES = {"missing": ["haproxy"], "unknown": [], "said": "", "sources": {}}


def said(cluster: Cluster, name: str, **different: Any) -> dict[str, Any]:
    """Return what a good host says that is about to be deployed to, but for what is different."""
    host = cluster.host(name)
    asked = question(cluster, host, {peer.name for peer in cluster.hosts}, {})
    good = {
        "system": "Debian GNU/Linux 12 (bookworm)",
        "codename": "bookworm",
        "systemd": True,
        "root": True,
        "container": False,
        "memory_mb": 8000,
        "ssh_ports": [22],
        "firewall": {"input": [], "output": []},
        "clock_offset_s": 0.0,
        "disks": dict.fromkeys(asked["paths"], ROOM),
        "addresses": [host.address],
        "database": {"present": False, "configured": False, "ours": False, "standby": False},
        "database_hosts": [],
        "machine": f"machine of {name}",
        "ports": [],
        "listening": [],
        "other_firewall": {"name": "", "opened": None},
        "way_in": {"interface": "eth0", "kind": ""},
        "silent": [],
        "links": {},
        "accounts": {"users": [], "groups": []},
        "note": {},
        "stamps": [],
        "ca": "",
        "sites": [],
        "kernel_lacks": [],
        "packages": PACKAGES,
    }
    return {**good, **different}


def refused(cluster: Cluster, name: str, **different: Any) -> list[str]:
    """Return what is found when one of all hosts is different."""
    answers = {host.name: said(cluster, host.name) for host in cluster.hosts}
    answers[name] |= different
    return [str(mistake) for mistake in judge(cluster, answers)]


def user(name: str, number: int, home: str = "/", *more: str, ours: bool = False) -> dict[str, Any]:
    """Return what a host says of an account; `more` are groups beside its own."""
    return {"name": name, "number": number, "home": home, "groups": [name, *more], "ours": ours}


def disks(cluster: Cluster, name: str, **different: Any) -> dict[str, Any]:
    """Return the file systems of a host: all one, and different."""
    return {path: {**ROOM, **different} for path in said(cluster, name)["disks"]}


def holder(port: int, process: str = "nginx", pid: int = 7, unit: str = "nginx.service") -> Any:
    """Return what a host says of a port that is taken."""
    return {"port": port, "process": process, "pid": pid, "unit": unit}


def test_good_hosts_are_let_through(home: Home) -> None:
    """What the other tests make wrong is right."""
    assert refused(home.load(), "web1") == []


def test_host_is_asked_for_what_it_will_need(home: Home) -> None:
    """Ports with where they listen, directories, and the peers of this run that it connects to."""
    cluster = home.load()
    asked = question(cluster, cluster.host("web1"), {"web1", "db1", "cache1", "lb1"}, {})
    assert asked["ports"] == {"8080": ["10.0.0.11"]}
    assert asked["paths"] == ["/srv", "/usr", "/var"]
    assert asked["peers"] == {
        "db1": {"address": "10.0.0.21", "ports": [22, 5432]},
        "cache1": {"address": "10.0.0.31", "ports": [22, 11211]},
    }
    front = question(cluster, cluster.host("lb1"), {"lb1"}, {})
    assert front["ports"] == {"80": ["0.0.0.0"], "443": ["0.0.0.0"]}
    assert front["peers"] == {}


@pytest.mark.parametrize(
    ("different", "message"),
    [
        (
            {"codename": "bullseye", "system": "Debian GNU/Linux 11 (bullseye)"},
            "web2: runs Debian GNU/Linux 11 (bullseye), which is not supported; install Debian 12 (bookworm) on it",
        ),
        ({"systemd": False}, "web2: does not run systemd; boot it with systemd as its init"),
        (
            {"root": False},
            'web2: the SSH user is not root; log in as root, or write "_sudo": True in its line',
        ),
        (
            {"addresses": ["10.0.0.99", "192.0.2.9"]},
            "web[1].address: 10.0.0.12 is not an address of web2, which has 10.0.0.99, 192.0.2.9;"
            " write the one by which the other hosts reach it",
        ),
        (
            {"memory_mb": 900},
            "web[1].memory_mb: web2 has 900 MiB, and 1024 are planned with; write at most 900, or leave it out",
        ),
        (
            {"clock_offset_s": -3600.4},
            "web2: its clock is 60 min behind this machine's, and certificates and replication bear"
            " 60 s; type where it is wrong: apt-get install chrony && chronyc makestep",
        ),
        (
            {"clock_offset_s": 95.0},
            "web2: its clock is 2 min ahead of this machine's, and certificates and replication bear"
            " 60 s; type where it is wrong: apt-get install chrony && chronyc makestep",
        ),
        (
            {"silent": ["db1"]},
            "web2: does not reach db1: 10.0.0.21 answers neither ping nor TCP on port 22 or 5432;"
            " look at routes and at firewalls between them, e.g. by: ip route get 10.0.0.21",
        ),
        (
            {"accounts": {"users": [user("blog", 1003, "/srv/blog", ours=True)], "groups": []}},
            "web2: its account blog has the number 1003, and files on the share belong to 5800;"
            " type on it: usermod -u 5800 blog && groupmod -g 5800 blog",
        ),
        (
            {"accounts": {"users": [user("jane", 5800)], "groups": []}},
            "web2: its account jane has the number 5800, which on the share is blog; give jane"
            " another one: usermod -u NUMBER jane",
        ),
        (
            {"accounts": {"users": [user("blog", 1003, "/home/blog", "sudo")], "groups": []}},
            "web2: its account blog is there already and not ours (number 1003, home /home/blog, groups"
            " blog, sudo), and the site would have its rights; choose another name for the site, or if"
            " nobody needs the account, type on it: userdel blog",
        ),
        (
            {"accounts": {"users": [user("blog", 5800, "/srv/blog", "sudo")], "groups": []}},
            "web2: its account blog is there already and not ours (number 5800, home /srv/blog, groups"
            " blog, sudo), and the site would have its rights; choose another name for the site, or if"
            " nobody needs the account, type on it: userdel blog",
        ),
        (
            {"accounts": {"users": [], "groups": [{"name": "blog", "number": 1007}]}},
            "web2: its group blog is there already and not ours (number 1007), and the site would have"
            " its rights; choose another name for the site, or if nobody needs the group, type on it:"
            " groupdel blog",
        ),
        (
            {"packages": {**PACKAGES, "unknown": ["apache2"]}},
            "web2: apt knows no package apache2; name Debian 12's sources in /etc/apt/sources.list,"
            " and type: apt-get update",
        ),
        (
            {"packages": {**PACKAGES, "unknown": ["gdal-binn"]}},
            "sites[0].packages: apt on web2 knows no package gdal-binn; write the name that Debian 12"
            " has for it, or if its source is new there, type: apt-get update",
        ),
        (
            {"packages": {**PACKAGES, "said": "Unmet dependencies."}},
            "web2: apt cannot install what it needs: Unmet dependencies; correct it, e.g. by: apt-get install -f",
        ),
        (
            {"packages": {**PACKAGES, "sources": {"http://a.test/InRelease": "404  Not Found"}}},
            "web2: its package source http://a.test/InRelease cannot be read (404  Not Found);"
            " correct it in /etc/apt, or let the host out to it",
        ),
    ],
)
def test_wrong_host_is_refused(home: Home, different: dict[str, Any], message: str) -> None:
    """A wrong host names its line or itself, what is wrong, and what to write or type."""
    home.group("all", SITES.replace("domains=", 'packages=["gdal-binn"], domains='))
    assert refused(home.load(), "web2", **different) == [message]


def test_package_source_out_of_reach_names_the_rule_that_is_missing(home: Home) -> None:
    """Where not everything may go out, the message says where to let the host out."""
    home.group("base", "outgoing = ['udp 53']")
    sources = {"http://a.test/InRelease": "No route to host"}
    assert refused(home.load(), "web2", packages={**PACKAGES, "sources": sources}) == [
        "web2: its package source http://a.test/InRelease cannot be read (No route to host);"
        " correct it in /etc/apt, or let the host out to it by base.outgoing, in a deploy before this one"
    ]


@pytest.mark.parametrize(
    ("name", "port", "who", "message"),
    [
        (
            "web1",
            8080,
            holder(8080),
            "web.port: 8080 is taken on web1 by nginx (nginx.service); type there: systemctl disable"
            " --now nginx.service, or write another port",
        ),
        (
            "lb1",
            443,
            holder(443, "python3", 4711, "session-3.scope"),
            "balancer.https_port: 443 is taken on lb1 by python3 (session-3.scope); type there:"
            " kill 4711, or write another port",
        ),
        (
            "db1",
            5432,
            holder(5432, "postgres", 9, "postgresql@13-main.service"),
            "db.port: 5432 is taken on db1 by postgres (postgresql@13-main.service); type there:"
            " systemctl disable --now postgresql@13-main.service, or write another port",
        ),
        (
            "cache1",
            11211,
            holder(11211, "systemd", 1, ""),
            "cache.port: 11211 is taken on cache1 by systemd; write another port",
        ),
        (
            "media1",
            2049,
            holder(2049, "ganesha.nfsd", 9, "nfs-ganesha.service"),
            "media.share: 2049 is taken on media1 by ganesha.nfsd (nfs-ganesha.service); type there:"
            " systemctl disable --now nfs-ganesha.service",
        ),
    ],
)
def test_taken_port_is_refused(home: Home, name: str, port: int, who: Any, message: str) -> None:
    """Who holds a port of ours is named by process and unit."""
    assert refused(home.load(), name, ports=[who]) == [message]


def test_ssh_is_never_switched_off(home: Home) -> None:
    """An SSH server that the inventory does not know of keeps its port."""
    found = {"ports": [holder(8080, "sshd", 9, "ssh.service")], "ssh_ports": [22, 8080]}
    assert refused(home.load(), "web1", **found) == [
        "web.port: 8080 is taken on web1 by sshd (ssh.service); write another port"
    ]


def test_own_programs_keep_their_ports(home: Home) -> None:
    """A deployed host is not refused for what a deploy has started, the kernel's NFS server included."""
    cluster = home.load()
    ours = holder(8080, "apache2", 9, "apache2.service")
    assert refused(cluster, "web1", ports=[ours]) == []
    assert refused(cluster, "media1", ports=[holder(2049, "", 0, "")]) == []


@pytest.mark.parametrize(
    ("name", "different", "message"),
    [
        (
            "web1",
            {"free_mb": 900},
            "web1: / has 900 MiB free, and the deploy needs 1100 (packages, logs, releases);"
            " delete something there, or give it a larger disk",
        ),
        (
            "web1",
            {"free_inodes": 500},
            "web1: / has 500 inodes free, and the deploy needs 43000 (packages, logs,"
            " releases); delete something there, or give it a larger disk",
        ),
        (
            "web1",
            {"noexec": True},
            "web1: / is mounted noexec, and sites' Python modules are loaded from there; take noexec"
            " out of its line in /etc/fstab, and type: mount -o remount,exec /",
        ),
        (
            "cache1",
            {"read_only": True},
            "cache1: / is mounted read-only; look why (dmesg), then type: mount -o remount,rw /",
        ),
    ],
)
def test_disk_is_refused(home: Home, name: str, different: Any, message: str) -> None:
    """All that will lie on a file system is counted together."""
    cluster = home.load()
    assert refused(cluster, name, disks=disks(cluster, name, **different)) == [message]


def test_room_is_judged_by_file_system(home: Home) -> None:
    """PostgreSQL's directory on a disk of its own needs room for the WAL that it may keep."""
    cluster = home.load()
    small = {"mount": "/var/lib/postgresql", "free_mb": 5000}
    found = {**disks(cluster, "db1"), "/var/lib/postgresql": {**ROOM, **small}}
    assert refused(cluster, "db1", disks=found) == [
        "db1: /var/lib/postgresql has 5000 MiB free, and the deploy needs 5320 (PostgreSQL with 4096"
        " for db.slot_keep_mb); delete something there, or give it a larger disk"
    ]
    home.group("db", "slot_keep_mb = 1024")
    assert refused(home.load(), "db1", disks=found) == []


def test_deployed_host_needs_little_room(home: Home) -> None:
    """A host is not refused for what it already has; file systems may count no inodes."""
    cluster = home.load()
    deployed = {"packages": {**PACKAGES, "missing": []}}
    found = disks(cluster, "db1", free_mb=101, free_inodes=None)
    assert refused(cluster, "db1", disks=found, **deployed) == []
    found = disks(cluster, "db1", free_mb=99)
    assert len(refused(cluster, "db1", disks=found, **deployed)) == 1


def test_memory_that_the_kernel_keeps_is_not_missed(home: Home) -> None:
    """A host that is sold with 1024 MiB shows less."""
    assert refused(home.load(), "web1", memory_mb=960) == []


def test_wrong_address_is_said_once(home: Home) -> None:
    """That others do not reach an address which its host has not is no news."""
    cluster = home.load()
    answers = {host.name: said(cluster, host.name) for host in cluster.hosts}
    answers["db1"]["addresses"] = ["10.0.0.99"]
    answers["web1"]["silent"] = answers["web2"]["silent"] = ["db1"]
    assert [mistake.where for mistake in judge(cluster, answers)] == ["db[0].address"]


def test_one_machine_under_two_names_is_refused(home: Home) -> None:
    """SSH has reached the same host twice; clones that share their machine-id are hosts of their own."""
    cluster = home.load()
    answers = {host.name: said(cluster, host.name) for host in cluster.hosts}
    answers["web2"]["machine"] = answers["web1"]["machine"]
    assert judge(cluster, answers) == []
    both = ["10.0.0.11", "10.0.0.12"]
    answers["web1"]["addresses"] = answers["web2"]["addresses"] = both
    assert [str(mistake) for mistake in judge(cluster, answers)] == [
        "web[1]: web2 is the same machine as web1, reached twice by SSH; correct ssh_hostname or"
        " ssh_port, or write one name for it in both tiers"
    ]


def test_host_that_says_nothing_is_refused(home: Home) -> None:
    """No python3, and words in the place of an answer."""
    cluster = home.load()
    assert [str(mistake) for mistake in judge(cluster, {"web1": {}, "db1": "is away"})] == [
        "db1: is away",
        "web1: has no python3; type on it: apt-get install python3",
    ]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (
            no_answer("", sudo=True),
            "sudo does not work there (sudo: a password is required); let the SSH user use it without"
            " a password: write USER ALL=(ALL) NOPASSWD: ALL in a file of /etc/sudoers.d",
        ),
        (
            no_answer("Sorry.\nops is not in the sudoers file.\n", sudo=True, password=True),
            "sudo does not work there (ops is not in the sudoers file.); let the SSH user use it"
            " without a password: write USER ALL=(ALL) NOPASSWD: ALL in a file of /etc/sudoers.d",
        ),
        (
            no_answer("sh: 1: sudo: not found", sudo=True),
            "has no sudo; log in as root, or type on it as root: apt-get install sudo",
        ),
        (
            no_answer("", sudo=True, password=True),
            "sudo does not take the password of its line; correct it, or where /tmp is mounted noexec,"
            ' which keeps sudo from asking for it, write "_temp_dir": "/var/tmp" beside it',
        ),
        (
            no_answer("Traceback …\nImportError: no json", sudo=True),
            "cannot be asked (ImportError: no json); look whether its python3 works",
        ),
    ],
)
def test_why_a_host_cannot_be_asked(answer: str, message: str) -> None:
    """sudo's own words are passed on, and what to write."""
    assert answer == message


@pytest.mark.parametrize(
    ("host", "ours", "expected"),
    [
        ((1000, 1001), (1000, 1001), 0),
        ((1020, 1021), (1000, 1030), 0),  # A slow way: nothing is known.
        ((1100, 1101), (1000, 1031), 70),
        ((900, 901), (1000, 1031), -100),
    ],
)
def test_clock_is_off_only_if_it_surely_is(
    host: tuple[float, float], ours: tuple[float, float], expected: float
) -> None:
    """However long the answer takes, a right clock is never called wrong."""
    assert clock_offset_s(host, ours) == expected


def test_run_with_a_limit_asks_nobody_else(home: Home) -> None:
    """A host that has no part in the run may be down."""
    cluster = home.load()
    asked = question(cluster, cluster.host("web1"), {"web1"}, {})
    assert asked["peers"] == {}


def entry(protocol: str, port: int, process: str = "", unit: str = "", tunnel: bool = False) -> Any:
    """Return what a host says of a port that is listened on."""
    return {
        "protocol": protocol,
        "port": port,
        "process": process,
        "unit": unit,
        "tunnel": tunnel,
        "pid": 7 if process else 0,
    }


EXPORTER = entry("tcp", 9100, "prometheus-node", "prometheus-node-exporter.service")
WIREGUARD = entry("udp", 51820, tunnel=True)
WG0 = {"interface": "wg0", "kind": "wireguard"}


def test_what_the_firewall_would_shut_is_named(home: Home) -> None:
    """With the line to write, before the first rule; what is ours, open already or harmless is not."""
    home.group("base", "incoming = ['tcp 25']")
    cluster = home.load()
    ours = [
        entry("tcp", 22, "sshd", "ssh.service"),
        entry("tcp", 8080, "apache2", "apache2.service"),
    ]
    harmless = [entry("udp", 68, "dhclient"), entry("tcp", 8000, "docker-proxy", "docker.service")]
    listed = entry("tcp", 25, "master", "postfix@-.service")
    assert refused(cluster, "web2", listening=[*ours, *harmless, listed]) == []
    there = [*ours, *harmless, listed, EXPORTER, WIREGUARD]
    assert refused(cluster, "web2", listening=there) == [
        "web2: its firewall would shut tcp 9100 (prometheus-node, prometheus-node-exporter.service),"
        ' udp 51820 (the kernel); write base.incoming = ["tcp 25", "tcp 9100", "udp 51820"], each with'
        ' "from ADDRESS" if not for everybody, or if nobody needs it, add --data shut=yes'
    ]
    # Shut already, by the firewall that is there; or by the user's own word.
    rules = {"input": ['tcp dport 22 accept comment "SSH"'], "output": []}
    assert refused(cluster, "web2", listening=there, firewall=rules) == []
    answers = {host.name: said(cluster, host.name) for host in cluster.hosts}
    answers["web2"]["listening"] = there
    assert judge(cluster, answers, shut=True) == []
    assert judge(cluster, answers, shut=None) == []


def test_way_in_through_a_tunnel_that_would_be_shut_is_refused(home: Home) -> None:
    """Whatever the user says, and however long the firewall has been there: nobody would come in again."""
    cluster = home.load()
    rules = {"input": ['udp dport 51820 accept comment "base.incoming"'], "output": []}
    said_so = [
        "web2: this run comes in by the tunnel wg0 (wireguard), and the firewall would shut udp 51820"
        ' (the kernel), where it arrives; write base.incoming = ["udp 51820"], or reach it by an address'
        " outside of the tunnel (ssh_hostname in its line)"
    ]
    there = {"listening": [WIREGUARD], "way_in": WG0, "firewall": rules}
    assert refused(cluster, "web2", **there) == said_so
    home.group("base", "incoming = ['udp 51820']")
    assert refused(home.load(), "web2", **there) == []
    assert refused(cluster, "web2", way_in={"interface": "gre1", "kind": "gre"}) == [
        "web2: this run comes in by the tunnel gre1 (gre), whose packets no rule of the firewall lets"
        " in; reach it by an address outside of the tunnel (ssh_hostname in its line)"
    ]


def test_link_on_the_way_to_files_is_refused(home: Home) -> None:
    """A deploy would end well, and every picture would be 403."""
    links = {
        "/srv/blog": "/data/blog",
        "/srv/blog/media/old": "",
        "/srv/blog/media/photos": "/data/photos",
    }
    nobody = "and who serves uploads and static files follows no links;"
    assert refused(home.load(), "media1", links=links) == [
        f"media1: /srv/blog is a link to /data/blog, {nobody} mount in its place what it leads to, type"
        " on it: rm /srv/blog && mkdir /srv/blog && mount --bind /data/blog /srv/blog, and write in its"
        " /etc/fstab: /data/blog /srv/blog none bind 0 0",
        f"media1: /srv/blog/media/old is a link to nothing, {nobody} type on it: rm /srv/blog/media/old",
        f"media1: /srv/blog/media/photos is a link to /data/photos, {nobody} have in its place what it"
        " leads to, type on it: rm /srv/blog/media/photos && mv /data/photos /srv/blog/media/photos",
    ]


def test_only_who_serves_files_is_asked_for_links(home: Home) -> None:
    """Releases may lie behind a link."""
    cluster = home.load()
    served = {
        name: question(cluster, cluster.host(name), (), {})["served"] for name in ("web1", "media1")
    }
    assert served == {"web1": {}, "media1": {"/srv/blog/media": True, "/srv/blog/static": False}}


def test_links_are_found(tmp_path: Path) -> None:
    """Those on the way, wherever they lead; in MEDIA_ROOT only what root has made, not the site."""
    media = tmp_path / "srv" / "blog" / "media"
    (tmp_path / "data" / "media" / "folder").mkdir(parents=True)
    (tmp_path / "srv" / "blog").mkdir(parents=True)
    media.symlink_to(tmp_path / "data" / "media")
    (media / "gone").symlink_to("nowhere")
    (media / "folder" / "deeper").symlink_to("/etc")
    found = preflight_agent.links(
        {str(media): True, str(tmp_path / "srv" / "blog" / "static"): False}
    )
    expected = {str(media): str(tmp_path / "data" / "media")}
    if os.geteuid() == 0:
        expected[str(media / "gone")] = ""
        os.lchown(media / "gone", 1000, 1000)
        assert preflight_agent.links({str(media): True}) == {str(media): expected[str(media)]}
    assert found == expected


def test_link_that_vanishes_meanwhile_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A site that makes and removes links all the time would keep every deploy from its host."""
    (tmp_path / "here").symlink_to("nowhere")
    (tmp_path / "gone").symlink_to("nowhere")
    scandir = os.scandir

    @contextmanager
    def vanishing(path: str) -> Iterator[Iterator[os.DirEntry[str]]]:
        with scandir(path) as entries:
            found = list(entries)
        (tmp_path / "gone").unlink()
        yield iter(found)

    monkeypatch.setattr(os, "scandir", vanishing)
    found = preflight_agent.links({str(tmp_path): True})
    assert found == ({str(tmp_path / "here"): ""} if os.geteuid() == 0 else {})


def test_names_of_uploads_are_not_all_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether there are files is known by the first that is one: a site may make millions."""
    assert not preflight_agent.media("blog", str(tmp_path))["files"]
    (tmp_path / "lost+found").mkdir()
    (tmp_path / ".tierstack-home").touch()
    assert not preflight_agent.media("blog", str(tmp_path))["files"]
    for number in range(50):
        (tmp_path / f"{number}.jpg").touch()
    read: list[str] = []
    scandir = os.scandir

    def counted(entries: Iterator[os.DirEntry[str]]) -> Iterator[os.DirEntry[str]]:
        for entry in entries:
            read.append(entry.name)
            yield entry

    @contextmanager
    def counting(path: str) -> Iterator[Iterator[os.DirEntry[str]]]:
        with scandir(path) as entries:
            yield counted(entries)

    monkeypatch.setattr(os, "scandir", counting)
    said = preflight_agent.media("blog", str(tmp_path))
    assert (said["files"], said["mark"]) == (True, "home" if os.geteuid() == 0 else "")
    assert 1 <= len(read) <= 3


def test_kernel_without_nfs_is_found_beforehand(home: Home) -> None:
    """Containers have their machine's kernel, and load nothing; who shares by sshfs needs none of it."""
    cluster = home.load()
    others = {host.name for host in cluster.hosts}
    asked = {name: question(cluster, cluster.host(name), others, {}) for name in others}
    assert {name: said["modules"] for name, said in asked.items() if said["modules"]} == {
        "web1": {"nfs4": "nfsv4"},
        "web2": {"nfs4": "nfsv4"},
        "media1": {"nfsd": "nfsd"},
    }
    answers = {host.name: said(cluster, host.name, container=True) for host in cluster.hosts}
    answers["web1"]["kernel_lacks"] = answers["web2"]["kernel_lacks"] = ["nfs4"]
    answers["media1"]["kernel_lacks"] = ["nfsd"]
    assert [str(mistake) for mistake in judge(cluster, answers)] == [
        "media.share: nfs needs nfsd and nfsv4 in the kernel, and media1, web1 and web2 have not; write"
        ' share="sshfs" in group_data/media.py, or media=dict(share="sshfs") in all.py, or type on the'
        " machine whose containers they are: modprobe -a nfsd nfsv4"
    ]
    assert refused(cluster, "web2", kernel_lacks=["nfs4"]) == [
        'media.share: nfs needs nfsv4 in the kernel, and web2 has not; write share="sshfs" in'
        ' group_data/media.py, or media=dict(share="sshfs") in all.py, or type on'
        " each, which needs a kernel that has them, such as Debian's own (linux-image-amd64): modprobe -a"
        " nfsv4"
    ]
    home.group("media", 'share = "sshfs"')
    cluster = home.load()
    assert question(cluster, cluster.host("web1"), others, {})["modules"] == {}


def test_firewall_of_somebody_else_is_named(home: Home) -> None:
    """With the ports that it shuts, unless it lets them in."""
    cluster = home.load()
    there = {"name": "ufw", "opened": [["tcp", 22]]}
    assert refused(cluster, "web2", other_firewall=there) == [
        "web2: ufw is at work there too, and shuts tcp 8080, which the cluster lets in; type there: ufw"
        " disable, as the cluster's firewall takes its place, or let them in by ufw"
    ]
    there["name"] = "firewalld"
    assert refused(cluster, "lb1", other_firewall=there) == [
        "lb1: firewalld is at work there too, and shuts tcp 80, tcp 443, which the cluster lets in; type"
        " there: systemctl disable --now firewalld, as the cluster's firewall takes its place, or let"
        " them in by firewalld"
    ]
    open_now = {"name": "firewalld", "opened": [["tcp", 22], ["tcp", 80], ["tcp", 443]]}
    assert refused(cluster, "lb1", other_firewall=open_now) == []


UFW = """\
Added user rules (see 'ufw status' for running firewall):
ufw allow 22/tcp
ufw limit 2222/tcp
ufw allow https
ufw allow from 10.0.0.0/24 to any port 5432 proto tcp
ufw allow from 10.0.0.9
ufw deny 9100/tcp
"""
FIREWALLD = """\
public (active)
  target: default
  services: ssh
  ports: 8080/tcp 53/udp
  rich rules:
\trule family="ipv4" source address="10.0.0.11" port port="5432" protocol="tcp" accept
"""


def test_rules_of_other_firewalls_are_read() -> None:
    """As they list them themselves."""
    shut = "Status: active\nDefault: deny (incoming), allow (outgoing), disabled (routed)\n"
    found = opened_by_ufw(shut, UFW) or []
    assert [port for protocol, port in found if protocol == "tcp"] == [22, 443, 2222, 5432]
    assert opened_by_ufw(shut.replace("deny (in", "allow (in"), UFW) is None
    found = opened_by_firewalld(FIREWALLD) or []
    assert found == [["tcp", 22], ["tcp", 5432], ["tcp", 8080], ["udp", 53]]
    assert opened_by_firewalld(FIREWALLD.replace("default", "ACCEPT")) is None


def test_shell_that_prints_something_of_its_own_is_named() -> None:
    """Whatever its user has in a file such as ~/.bashrc; a program's one line is no noise."""
    assert noise(['{"root": true}']) == noise([]) == ""
    assert noise(["Welcome, root! ", "", "{}"]) == (
        'its shell prints "Welcome, root!" before what a command says, and that garbles every answer;'
        " in the file that does so, such as ~/.bashrc, write above it: [ -t 1 ] || return"
    )
