"""What sends and keeps copies of MEDIA_ROOT, rendered without a host; marks, in a directory here."""

from __future__ import annotations

import getpass
import importlib
import subprocess
from pathlib import Path
from typing import Any

import pytest

from roles import copies
from tests.model.conftest import HOSTS, Home
from tierstack import hosts
from tierstack.model import Cluster
from tierstack.operations.config import Absent, File, template
from tierstack.secrets import load_secrets

#: A program of a host's, without types.
media_agent: Any = importlib.import_module("tierstack.operations.media_agent")

_MEDIA = 'media = [("media1", {"address": "10.0.0.41", "memory_mb": 512})'
_MORE = ', ("media2", {"address": "10.0.0.42"}), ("media3", {"address": "10.0.0.43"})'


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the role would have `config` and `media_root` do."""
    calls: list[dict[str, Any]] = []
    for name in ("config", "media_root"):
        monkeypatch.setattr(copies, name, lambda **arguments: calls.append(arguments))
    monkeypatch.setattr(hosts, "facts", lambda name: {"stamps": ["copies"]})
    return calls


def _cluster(home: Home) -> Cluster:
    home.inventory(HOSTS.replace(_MEDIA, _MEDIA + _MORE))
    return home.load().with_media_home("media2")


def _text(call: dict[str, Any], path: str) -> str:
    found = next(entry for entry in call["entries"] if entry.path == path)
    assert isinstance(found, File)
    return found.content.decode()


def test_home_sends_to_each_copy_by_itself(home: Home, asked: list[dict[str, Any]]) -> None:
    """A block for each copy, so that a silent one does not hold the others up."""
    cluster = _cluster(home)
    secrets = load_secrets(cluster)
    copies.deploy(cluster, cluster.host("media2"), secrets)
    text = _text(asked[0], "/etc/tierstack/lsyncd.conf.lua")
    assert [line.split('"')[1] for line in text.splitlines() if "target =" in line] == [
        "rsync://copy@10.0.0.41:8730/blog/",
        "rsync://copy@10.0.0.43:8730/blog/",
    ]
    assert text.count("sync {") == 2
    assert secrets["share.copy_password"] not in text
    assert [unit.name for unit in asked[0]["units"]] == ["tierstack-copies.service"]
    absent = [entry.path for entry in asked[0]["entries"] if isinstance(entry, Absent)]
    assert "/etc/systemd/system/tierstack-copy.service" in absent


def test_copy_takes_from_media_hosts_alone(home: Home, asked: list[dict[str, Any]]) -> None:
    """Whoever may become the home, with the password, as the site's account, where a mark allows it."""
    cluster = _cluster(home)
    secrets = load_secrets(cluster)
    copies.deploy(cluster, cluster.host("media1"), secrets)
    marked, served = asked
    assert marked["role"] == "copy"
    text = _text(served, "/etc/tierstack/rsyncd.conf")
    for line in (
        "address = 10.0.0.41",
        "hosts allow = 10.0.0.42 10.0.0.43",
        "hosts deny = *",
        "use chroot = yes",
        "    uid = blog",
        "    pre-xfer exec = test -e /srv/blog/media/.tierstack-copy",
    ):
        assert line in text.splitlines(), line
    secret = next(e for e in served["entries"] if e.path == "/etc/tierstack/copy_secrets")
    assert (secret.mode, secret.content.decode()) == (
        "600",
        f"copy:{secrets['share.copy_password']}\n",
    )


def test_lone_media_host_sends_nothing(home: Home, asked: list[dict[str, Any]]) -> None:
    """Where copies were and are no more, both programs go."""
    cluster = home.load()
    copies.deploy(cluster, cluster.host("media1"), load_secrets(cluster))
    absent = {entry.path for entry in asked[0]["entries"]}
    assert {
        "/etc/systemd/system/tierstack-copy.service",
        "/etc/systemd/system/tierstack-copies.service",
    } <= absent


def test_media_hosts_reach_each_other(home: Home) -> None:
    """Any of them may become the home."""
    cluster = _cluster(home)
    openings = {opening.purpose: opening for opening in cluster.openings(cluster.host("media1"))}
    assert openings["copies of uploads"].port == 8730
    assert openings["copies of uploads"].peers == ("10.0.0.42", "10.0.0.43")
    home.inventory(HOSTS)
    alone = home.load()
    assert "copies of uploads" not in {o.purpose for o in alone.openings(alone.host("media1"))}


def test_storage_host_needs_no_copies(home: Home) -> None:
    """All media hosts mount from it, and none sends anything."""
    home.inventory(
        HOSTS.replace(_MEDIA, _MEDIA + _MORE), 'storage = [("storage1", {"address": "10.0.0.51"})]'
    )
    cluster = home.load()
    assert cluster.copies == ()
    assert all(cluster.mounts_share(host) for host in cluster.tier("media"))
    assert "copies of uploads" not in {flow.purpose for flow in cluster.flows}


def test_nothing_is_copied_without_the_mark(tmp_path: Path) -> None:
    """An unmounted disk ends rsync before it begins; what cannot be read is deleted nowhere."""
    script = template("media/usr/local/lib/tierstack/media-rsync.j2").decode()
    script = script.replace("/usr/bin/rsync", "/bin/echo")
    source = tmp_path / "media"
    source.mkdir()
    command = ["sh", "-c", script, "media-rsync", "-r", "--delete", "--ignore-errors"]
    command += [f"{source}/", "rsync://copy@10.0.0.41/blog/"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (30, "")
    assert done.stderr == f"{source}/ has no .tierstack-home; is its disk mounted?\n"
    (source / ".tierstack-home").touch()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == f"-r --delete {source}/ rsync://copy@10.0.0.41/blog/\n"


def _marked(
    path: Path, role: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> str:
    monkeypatch.setattr(media_agent, "NOTES", str(path.parent / "notes" / "media-home"))
    request = {
        "role": role,
        "proved": False,
        "sites": {"blog": str(path)},
        "accounts": {"blog": getpass.getuser()},
        "stamp": "20260102-030405",
    }
    assert media_agent.main(request) == 0
    return capsys.readouterr().out


def test_only_a_copy_is_written_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is no copy is moved aside; an empty directory becomes one, and stays one."""
    path = tmp_path / "media"
    path.mkdir()
    (path / "mine.txt").write_text("mine")
    aside = tmp_path / "media.aside-20260102-030405"
    said = _marked(path, "copy", monkeypatch, capsys)
    assert said == f"what lay in {path} was no copy, and lies in {aside} now\n"
    assert (aside / "mine.txt").read_text() == "mine"
    assert [file.name for file in path.iterdir()] == [".tierstack-copy"]
    (path / "theirs.txt").touch()
    assert _marked(path, "copy", monkeypatch, capsys) == ""
    assert (path / "theirs.txt").exists()


def test_mark_changes_with_the_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One mark at a time; the home is noted beside the data, too, until it is one no more."""
    path, note = tmp_path / "media", tmp_path / "notes" / "media-home-blog"
    for role, noted in (("copy", False), ("home", True), ("leaving", False), ("home", True)):
        _marked(path, role, monkeypatch, capsys)
        assert [file.name for file in path.iterdir()] == [f".tierstack-{role}"]
        assert note.exists() is noted
