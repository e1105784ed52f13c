"""What the two ends of MEDIA_ROOT's share get, rendered without a host."""

from __future__ import annotations

import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from roles import media, share
from tests.model.conftest import HOSTS, Home
from tierstack import hosts
from tierstack.model import Cluster
from tierstack.operations.config import Absent, Entry, File, Link
from tierstack.secrets import Secrets, load_secrets, ssh_public_key


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the role would have `config` do."""
    calls: list[dict[str, Any]] = []
    monkeypatch.setattr(share, "config", lambda **arguments: calls.append(arguments))
    monkeypatch.setattr(share, "sessions_ended", lambda **arguments: calls.append(arguments))
    _say(monkeypatch)
    return calls


def _say(monkeypatch: pytest.MonkeyPatch, **said: Any) -> None:
    """Have all hosts say this of themselves, and nothing else."""
    nothing: dict[str, Any] = {"stamps": [], "media": {}, "share_peers": []}
    monkeypatch.setattr(hosts, "facts", lambda name: nothing | said)


def _cluster(home: Home, kind: str) -> tuple[Cluster, Secrets]:
    home.group("media", f"share = {kind!r}")
    cluster = home.load()
    return cluster, load_secrets(cluster)


def _two_sites(cluster: Cluster) -> Cluster:
    first = cluster.sites[0]
    settings = first.settings.model_copy(update={"name": "my-shop"})
    return replace(cluster, sites=(first, replace(first, settings=settings, uid=first.uid + 1)))


def _text(entries: list[Entry], path: str) -> str:
    """Return a file's lines without comments."""
    found = next(entry for entry in entries if entry.path == path)
    assert isinstance(found, File)
    lines = found.content.decode().splitlines()
    return "\n".join(line for line in lines if line and not line.lstrip().startswith("#"))


def test_nfs_exports_to_the_web_hosts_alone(home: Home, asked: list[dict[str, Any]]) -> None:
    """Each web host may write, as the site's account whoever it is there, and nobody else may."""
    cluster, secrets = _cluster(home, "nfs")
    share.export(_two_sites(cluster), cluster.host("media1"), secrets, everyone=True)
    options = "(rw,sync,no_subtree_check,sec=sys,all_squash,anonuid={0},anongid={0},fsid={0})"
    expected = [
        f"/srv/{name}/media 10.0.0.11{options.format(uid)} 10.0.0.12{options.format(uid)}"
        for name, uid in (("blog", 5800), ("my-shop", 5801))
    ]
    entries = asked[0]["entries"]
    assert _text(entries, "/etc/exports.d/tierstack.exports").splitlines() == expected
    assert asked[0]["units"][0].reload == "exportfs -ra"


def test_limited_run_shuts_no_removed_node_out(
    home: Home, asked: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Balancers without a part in the run may still send uploads to a node that has left."""
    cluster, secrets = _cluster(home, "nfs")
    now = {"share_clients": {"10.0.0.12": "ro", "10.0.0.13": "rw"}}
    monkeypatch.setattr(hosts, "facts", lambda name: now)
    share.export(cluster, cluster.host("media1"), secrets, everyone=False)
    exports = _text(asked[0]["entries"], "/etc/exports.d/tierstack.exports")
    assert re.findall(r" (\S+)\((rw|ro)", exports) == [
        ("10.0.0.12", "rw"),
        ("10.0.0.13", "rw"),
        ("10.0.0.11", "rw"),
    ]


def test_nfs_server_speaks_version_4_on_the_cluster_address(
    home: Home, asked: list[dict[str, Any]]
) -> None:
    """One port, one address, and neither rpcbind nor statd at the next boot."""
    cluster, secrets = _cluster(home, "nfs")
    share.export(cluster, cluster.host("media1"), secrets, everyone=True)
    entries = asked[0]["entries"]
    settings = _text(entries, "/etc/nfs.conf.d/tierstack.conf").splitlines()
    assert settings[0] == "[nfsd]"
    assert {"host=10.0.0.41", "udp=n", "vers3=n", "vers4.2=y"} <= set(settings)
    masked = [entry.path for entry in entries if isinstance(entry, Link)]
    assert masked == [
        "/etc/systemd/system/rpcbind.service",
        "/etc/systemd/system/rpcbind.socket",
        "/etc/systemd/system/rpc-statd.service",
    ]


def test_nfs_mount_fails_instead_of_waiting(home: Home, asked: list[dict[str, Any]]) -> None:
    """A dead server is an error within seconds, and never the end of the attempts to mount it."""
    cluster, secrets = _cluster(home, "nfs")
    share.mount(_two_sites(cluster), cluster.host("web1"), secrets)
    service = _text(asked[0]["entries"], "/etc/systemd/system/tierstack-media-my-shop.service")
    options = "vers=4.2,softerr,timeo=10,retrans=2,sync,nosuid,nodev,noexec"
    path = "/srv/my-shop/media"
    mount = f"mount -t nfs -o {options} ${{SERVER}}:{path} {path}"
    assert f"ExecStartPre=/usr/bin/timeout -s KILL 5 {mount}" in service.splitlines()
    assert {"Restart=always", "StartLimitIntervalSec=0"} <= set(service.splitlines())
    assert _text(asked[0]["entries"], "/etc/tierstack/share_server") == "SERVER=10.0.0.41"
    assert [unit.name for unit in asked[0]["units"]] == [
        "tierstack-media-blog.service",
        "tierstack-media-my-shop.service",
    ]


def test_storage_host_exports_in_place_of_the_media_host(
    home: Home, asked: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Web hosts write to it, media hosts only read, and the media host exports nothing any more."""
    home.inventory(HOSTS, 'storage = [("storage1", {"address": "10.0.0.51"})]')
    cluster, secrets = _cluster(home, "nfs")
    assert cluster.media_home.name == "storage1"
    share.export(cluster, cluster.host("storage1"), secrets, everyone=True)
    exports = _text(asked[0]["entries"], "/etc/exports.d/tierstack.exports")
    assert re.findall(r" (\S+)\((r[ow]),", exports) == [
        ("10.0.0.11", "rw"),
        ("10.0.0.12", "rw"),
        ("10.0.0.41", "ro"),
    ]
    share.mount(cluster, cluster.host("media1"), secrets)
    service = _text(asked[1]["entries"], "/etc/systemd/system/tierstack-media-blog.service")
    assert ",noexec,ro ${SERVER}:/srv/blog/media /srv/blog/media" in service
    assert _text(asked[1]["entries"], "/etc/tierstack/share_server") == "SERVER=10.0.0.51"
    _say(monkeypatch, stamps=["share-export"])
    for name in ("media1", "storage1"):
        share.close(cluster, cluster.host(name))
    assert [call["entries"][0] for call in asked[2:]] == [
        Absent("/etc/exports.d/tierstack.exports")
    ]


def test_sshfs_server_shows_media_and_nothing_else(home: Home, asked: list[dict[str, Any]]) -> None:
    """It listens on the cluster address, for the sites' accounts, with the web hosts' key."""
    cluster, secrets = _cluster(home, "sshfs")
    share.export(_two_sites(cluster), cluster.host("media1"), secrets, everyone=True)
    entries = asked[0]["entries"]
    settings = _text(entries, "/etc/tierstack/share_sshd_config").splitlines()
    assert settings[:3] == ["AddressFamily inet", "ListenAddress 10.0.0.41", "Port 2222"]
    assert {
        "AllowUsers blog my-shop",
        "PermitRootLogin no",
        "PasswordAuthentication no",
        "DisableForwarding yes",
        "ForceCommand internal-sftp -u 0022",
    } <= set(settings)
    assert settings[-2:] == ["Match User my-shop", "    ChrootDirectory /srv/my-shop"]
    public = ssh_public_key(secrets["share.client_key"])
    keys = _text(entries, "/etc/tierstack/share_authorized_keys")
    assert keys == f'restrict,from="10.0.0.11,10.0.0.12" {public}'
    assert "/etc/ssh/sshd_config" not in [entry.path for entry in entries]


def test_sshfs_service_for_each_site(home: Home, asked: list[dict[str, Any]]) -> None:
    """Each site has a mount of its own, on the server whose key is known beforehand."""
    cluster, secrets = _cluster(home, "sshfs")
    share.mount(_two_sites(cluster), cluster.host("web2"), secrets)
    entries = asked[0]["entries"]
    assert [unit.name for unit in asked[0]["units"]] == [
        "tierstack-media-blog.service",
        "tierstack-media-my-shop.service",
    ]
    public = ssh_public_key(secrets["share.media1_host_key"])
    known = _text(entries, "/etc/tierstack/share_known_hosts")
    assert known == f"[10.0.0.41]:2222 {public}"
    service = _text(entries, "/etc/systemd/system/tierstack-media-my-shop.service")
    for option in ("nosuid", "nodev", "noexec", "default_permissions", "allow_other"):
        assert option in service
    assert "reconnect" not in service


@pytest.mark.parametrize("kind", ["nfs", "sshfs"])
def test_mounts_are_not_asked_to_reload(home: Home, asked: list[dict[str, Any]], kind: str) -> None:
    """Their services have no way to: a file that asks for no restart would fail the deploy."""
    cluster, secrets = _cluster(home, kind)
    share.mount(cluster, cluster.host("web1"), secrets)
    service = _text(asked[0]["entries"], "/etc/systemd/system/tierstack-media-blog.service")
    assert "ExecReload" not in service
    assert [unit.command("reload") for unit in asked[0]["units"]] == ["true"]


def test_private_keys_are_for_root_alone(home: Home, asked: list[dict[str, Any]]) -> None:
    """The two private keys lie in files of mode 600, and in no other file."""
    cluster, secrets = _cluster(home, "sshfs")
    share.export(cluster, cluster.host("media1"), secrets, everyone=True)
    share.mount(cluster, cluster.host("web1"), secrets)
    entries = [entry for call in asked for entry in call["entries"]]
    private = [e for e in entries if isinstance(e, File) and b"PRIVATE KEY" in e.content]
    assert [(entry.path, entry.mode) for entry in private] == [
        ("/etc/tierstack/share_host_key", "600"),
        ("/etc/tierstack/share_client_key", "600"),
    ]


def test_no_host_goes_back_to_the_old_server(
    home: Home, asked: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever becomes of the mount, which is tried anew: two hosts never write to two others."""
    cluster, secrets = _cluster(home, "sshfs")
    _say(monkeypatch, media={"blog": {"source": "10.0.0.49"}})
    web1, unit = cluster.host("web1"), "tierstack-media-blog.service"
    share.mount(cluster, web1, secrets)
    (mounts,) = asked
    assert mounts["keep_new"]
    assert mounts["units"][0].command("start") == f"systemctl restart {unit}"
    assert share.answers(cluster, web1) is not None, "it is not asked whether it reaches the server"
    _say(monkeypatch, media={"blog": {"source": "10.0.0.41"}})
    share.mount(cluster, web1, secrets)
    assert not asked[1]["keep_new"]
    assert share.answers(cluster, web1) is None


def test_host_that_mounts_no_more_has_neither_mount_nor_key(
    home: Home, asked: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A web host that has become something else; web hosts keep theirs, and others had none."""
    cluster, _ = _cluster(home, "sshfs")
    for stamps in ([], ["share"]):
        _say(monkeypatch, stamps=stamps)
        for name in ("web1", "cache1") if stamps else ("web1", "cache1", "media1"):
            share.leave(cluster, cluster.host(name))
    (left,) = asked
    assert left["stamp"] == "share"
    assert left["then"] == "systemctl stop tierstack-media-blog.service 2>/dev/null || true"
    assert {entry.path for entry in left["entries"] if isinstance(entry, Absent)} == {
        "/etc/systemd/system/tierstack-media-blog.service",
        "/etc/systemd/system/multi-user.target.wants/tierstack-media-blog.service",
        "/etc/tierstack/share_server",
        "/etc/tierstack/share_client_key",
        "/etc/tierstack/share_known_hosts",
        "/etc/tierstack/share_ssh_config",
        "/usr/local/lib/tierstack/share-watch",
    }


def test_sessions_of_a_host_that_left_end(
    home: Home, asked: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key's addresses count at the log-in; who has one since before would write on."""
    cluster, _ = _cluster(home, "sshfs")
    _say(monkeypatch, share_peers=["10.0.0.11", "10.0.0.13"])
    for name in ("media1", "web1"):
        share.close(cluster, cluster.host(name))
    (ended,) = asked
    assert (ended["peers"], ended["port"]) == (["10.0.0.13"], 2222)
    _say(monkeypatch, share_peers=["10.0.0.11", "10.0.0.12"])
    share.close(cluster, cluster.host("media1"))
    assert len(asked) == 1


def test_the_other_kind_of_share_goes(home: Home, asked: list[dict[str, Any]]) -> None:
    """Who changes `media.share` does not keep the server of before."""
    cluster, secrets = _cluster(home, "nfs")
    share.export(cluster, cluster.host("media1"), secrets, everyone=True)
    gone = [entry.path for entry in asked[0]["entries"] if isinstance(entry, Absent)]
    assert gone == [
        "/etc/systemd/system/multi-user.target.wants/tierstack-share.service",
        "/etc/systemd/system/tierstack-share.service",
    ]
    assert "tierstack-share.service" in asked[0]["then"]


def test_exporter_mounts_nothing(home: Home, asked: list[dict[str, Any]]) -> None:
    """A host that is web and media host has MEDIA_ROOT on its own disk."""
    more = 'web += [("media1", {"address": "10.0.0.41", "memory_mb": 512})]'
    home.inventory(HOSTS, more)
    cluster, secrets = _cluster(home, "sshfs")
    assert "web" in cluster.host("media1").tiers
    share.mount(cluster, cluster.host("media1"), secrets)
    assert asked == []


def test_mount_hides_no_files(home: Home, tmp_path: Path) -> None:
    """Uploads that lie on a web host's own disk stop the deploy before the share covers them."""
    cluster = home.load()
    server = cluster.host("media1")
    site = cluster.sites[0]
    own = tmp_path / "media"

    def check() -> str:
        command = share._nothing_hidden(site, server).replace(site.media_root, str(own))
        return subprocess.run(["sh", "-c", command], capture_output=True, text=True).stdout

    assert check() == ""
    own.mkdir()
    assert check() == ""
    (own / "photo.jpg").touch()
    assert check() == (
        f"{own} holds files of this host alone, which the share would hide;"
        f" move them to {own} on media1 and leave {own} here empty\n"
    )


@pytest.mark.parametrize(
    ("header", "fits"),
    [
        ("www.example.com", True),
        ("www.example.com:8443", True),
        ("wwwxexample.com", False),
        ("www.example.com.evil.net", False),
        ("a.shop.example", True),
        ("a.b.shop.example", False),
        ("shop.example", False),
    ],
)
def test_host_header_chooses_the_site(header: str, fits: bool) -> None:
    """A site's files are found under its own names, with any port, and under no other name."""
    pattern = media.host_pattern(["www.example.com", "*.shop.example"])
    assert bool(re.search(pattern, header)) is fits
