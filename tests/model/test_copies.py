"""What sends and keeps copies of MEDIA_ROOT, rendered without a host; and what is noted, here."""

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
from tierstack.model.media_home import IDENTITY
from tierstack.operations.config import Absent, File, template
from tierstack.secrets import load_secrets

#: Programs of a host's, without types.
media_agent: Any = importlib.import_module("tierstack.operations.media_agent")
preflight_agent: Any = importlib.import_module("tierstack.operations.preflight_agent")

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
    """Whoever may become the home, with the password, as the site's account, where a note allows it."""
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
        "    pre-xfer exec = /usr/local/lib/tierstack/media-noted copy blog /srv/blog/media",
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


def test_nothing_of_the_sites_is_read_as_root(home: Home, asked: list[dict[str, Any]]) -> None:
    """The site could put links in root's way; its account reads what it may, and the password besides."""
    cluster = _cluster(home)
    copies.deploy(cluster, cluster.host("media2"), load_secrets(cluster))
    unit = _text(asked[0], "/etc/systemd/system/tierstack-copies.service").splitlines()
    for line in (
        "User=blog",
        "CapabilityBoundingSet=",
        "LoadCredential=copy_password:/etc/tierstack/copy_password",
        "ExecStartPre=/usr/local/lib/tierstack/media-noted home blog /srv/blog/media",
    ):
        assert line in unit, line
    text = _text(asked[0], "/etc/tierstack/lsyncd.conf.lua")
    assert 'password_file = "/run/credentials/tierstack-copies.service/copy_password"' in text


def test_nothing_of_a_home_is_deleted_by_another(home: Home, asked: list[dict[str, Any]]) -> None:
    """What two homes have is brought together: one takes what the other has, and keeps its own."""
    cluster = _cluster(home)
    other = cluster.host("media1")
    copies.receive(cluster, cluster.host("media2"), load_secrets(cluster), [other], part="home")
    (served,) = asked
    lines = _text(served, "/etc/tierstack/rsyncd.conf").splitlines()
    assert "    refuse options = delete" in lines
    assert (
        "    pre-xfer exec = /usr/local/lib/tierstack/media-noted home blog /srv/blog/media"
        in lines
    )


def test_nothing_is_copied_from_another_directory(tmp_path: Path) -> None:
    """An unmounted disk ends rsync before it begins; what cannot be read is deleted nowhere."""
    source, notes, guard = tmp_path / "blog" / "media", tmp_path / "notes", tmp_path / "guard"
    source.mkdir(parents=True)
    notes.mkdir()
    guard.write_bytes(
        template("media/usr/local/lib/tierstack/media-noted.j2", notes=notes, identity=IDENTITY),
    )
    script = template("media/usr/local/lib/tierstack/media-rsync.j2", guard=f"sh {guard}").decode()
    script = script.replace("/usr/bin/rsync", "/bin/echo")
    command = ["sh", "-c", script, "media-rsync", "-r", "--delete", "--ignore-errors"]
    command += [f"{source}/", "rsync://copy@10.0.0.41/blog/"]

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, capture_output=True, text=True, check=False)

    (source / ".tierstack-home").touch()
    (notes / "blog").write_text("home 1.1\n")
    done = run()
    assert (done.returncode, done.stdout) == (30, "")
    assert done.stderr == f"{source}/ is not what was noted as its home; is its disk mounted?\n"
    (notes / "blog").write_text(f"home {media_agent.identity(str(source))}\n")
    assert run().stdout == f"-r --delete {source}/ rsync://copy@10.0.0.41/blog/\n"
    (notes / "blog").write_text(f"copy {media_agent.identity(str(source))}\n")
    assert run().returncode == 30


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the agent notes here what MEDIA_ROOT is."""
    monkeypatch.setattr(media_agent, "NOTES", str(tmp_path / "notes"))
    monkeypatch.setattr(media_agent, "OLD_NOTES", str(tmp_path / "media-home"))
    monkeypatch.setattr(media_agent, "UNDER", str(tmp_path / "under"))
    return tmp_path / "notes"


def _noted(path: Path, role: str, *, proved: bool = False) -> None:
    request = {
        "role": role,
        "proved": proved,
        "sites": {"blog": str(path)},
        "accounts": {"blog": getpass.getuser()},
        "stamp": "20260102-030405",
    }
    assert media_agent.main(request) == 0


def _role(path: Path) -> str:
    return str(media_agent.mark("blog", str(path)))


def test_only_a_copy_is_written_over(
    tmp_path: Path, notes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is no copy is moved aside; an empty directory becomes one, and stays one."""
    path = tmp_path / "media"
    path.mkdir()
    (path / "mine.txt").write_text("mine")
    aside = tmp_path / "media.aside-20260102-030405"
    _noted(path, "copy")
    said = capsys.readouterr().out
    assert said == f"what lay in {path} was no copy, and lies in {aside} now\n"
    assert (aside / "mine.txt").read_text() == "mine"
    assert list(path.iterdir()) == []
    (path / "theirs.txt").touch()
    _noted(path, "copy")
    assert capsys.readouterr().out == ""
    assert (path / "theirs.txt").exists()


def test_note_says_which_directory_it_was(tmp_path: Path, notes: Path) -> None:
    """One part at a time, until another directory is there: then it is none of them."""
    path = tmp_path / "media"
    for role in ("copy", "home", "leaving", "home"):
        _noted(path, role)
        assert _role(path) == role
        assert [file.name for file in notes.iterdir()] == ["blog"]
        assert list(path.iterdir()) == []
    path.rename(tmp_path / "unmounted")
    path.mkdir()
    assert _role(path) == ""
    path.rmdir()
    assert _role(path) == ""
    (tmp_path / "unmounted").rename(path)
    assert _role(path) == "home"


def test_all_of_ours_know_a_directory_by_the_same(tmp_path: Path) -> None:
    """By its birth; where the file system knows none, by the number of its inode."""
    birth = media_agent.identity(str(tmp_path))
    assert preflight_agent.identity(str(tmp_path)) == birth
    script = f"stat -L -c '%.9W %i' {tmp_path} | {IDENTITY}"
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == birth
    for said, known in (
        ("0.000000000 137", "137"),
        ("1796067933.641089753 137", "1796067933.641089753"),
    ):
        done = subprocess.run(
            ["sh", "-c", f"echo {said} | {IDENTITY}"], capture_output=True, text=True
        )
        assert done.stdout.strip() == known


def test_what_the_site_plants_is_neither_obeyed_nor_written_through(
    tmp_path: Path, notes: Path
) -> None:
    """A link by the name of a mark, or a mark that has a second name, is nothing to us."""
    path, victim = tmp_path / "media", tmp_path / "passwd"
    path.mkdir()
    victim.write_text("root")
    for name in media_agent.OLD_MARKS.values():
        (path / name).symlink_to(victim)
    assert _role(path) == ""
    for role in ("home", "leaving"):
        _noted(path, role)
        assert (victim.read_text(), _role(path)) == ("root", role)
    assert sorted(file.name for file in path.iterdir()) == sorted(media_agent.OLD_MARKS.values())
    (notes / "blog").unlink()
    (path / ".tierstack-home").unlink()
    (path / ".tierstack-home").hardlink_to(victim)
    assert _role(path) == ""


def test_mark_of_an_earlier_version_is_taken_over_once(tmp_path: Path, notes: Path) -> None:
    """It lay in MEDIA_ROOT; what it said is noted, and it goes."""
    path, old_note = tmp_path / "media", tmp_path / "media-home-blog"
    path.mkdir()
    (path / ".tierstack-home").touch()
    old_note.touch()
    assert _role(path) == "home"
    _noted(path, "home")
    assert (_role(path), list(path.iterdir()), old_note.exists()) == ("home", [], False)
    (notes / "blog").unlink()
    (path / ".tierstack-copy").touch()
    (path / "theirs.txt").touch()
    _noted(path, "copy")
    assert (_role(path), [file.name for file in path.iterdir()]) == ("copy", ["theirs.txt"])


def test_files_go_aside_by_descriptors(tmp_path: Path) -> None:
    """Each as it is, links as links; where a link stands for the directory itself, nothing moves."""
    path, away = tmp_path / "media", tmp_path / "away"
    path.mkdir()
    away.mkdir()
    (away / "theirs.txt").touch()
    assert media_agent.move_names(str(tmp_path), "media", "media.aside") is False
    (path / "link").symlink_to(away)
    (path / "mine.txt").touch()
    assert media_agent.move_names(str(tmp_path), "media", "media.aside") is True
    aside = tmp_path / "media.aside"
    assert sorted(file.name for file in aside.iterdir()) == ["link", "mine.txt"]
    assert (aside / "link").is_symlink()
    path.rmdir()
    path.symlink_to(away)
    with pytest.raises(NotADirectoryError):
        media_agent.move_names(str(tmp_path), "media", "media.aside-2")
    assert (away / "theirs.txt").exists()
