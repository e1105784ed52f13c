"""What root copies of an account's files, and what of them it neither follows nor changes."""

from __future__ import annotations

import errno
import os
import pwd
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tierstack.agents import web_release
from tierstack.agents.web_release import UnfitError, copy_tree, environment_file

ME = os.getuid()
need_root = pytest.mark.skipif(ME != 0, reason="gives files to another account")

#: Exchanges two names in a directory, again and again. Source: renameat2(2).
_EXCHANGE = """
import ctypes, os, sys
os.chdir(sys.argv[1])
exchange = ctypes.CDLL(None).renameat2
while True:
    exchange(-100, b"d", -100, b"link", 2)
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small venv, in a directory of root's."""
    root = tmp_path / "venv"
    (root / "bin").mkdir(parents=True)
    (root / "lib").mkdir()
    (root / "bin" / "tool").write_text(f"#!{root}/bin/python\n", encoding="utf-8")
    (root / "bin" / "tool").chmod(0o4755)
    (root / "bin" / "python").symlink_to("/usr/bin/python3")
    (root / "lib" / "a.py").write_text(f"# {root}\n", encoding="utf-8")
    os.utime(root / "lib" / "a.py", (1, 1000))
    return root


@pytest.fixture
def open_to_all() -> Iterator[Path]:
    """A directory that another account may enter, as it may not enter pytest's."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_tree_is_copied_into_new_files(tree: Path) -> None:
    """Whoever has a file open cannot write to the copy; links stay links, and no bit makes another's."""
    copy = tree.with_name("copy")
    with (tree / "lib" / "a.py").open("a", encoding="utf-8") as opened:
        copy_tree(str(tree), str(copy), ME)
        opened.write("more\n")
    assert (copy / "lib" / "a.py").read_text(encoding="utf-8") == f"# {tree}\n"
    assert (copy / "lib" / "a.py").stat().st_mtime == 1000
    assert (copy / "bin" / "python").readlink() == Path("/usr/bin/python3")
    modes = {path.name: stat.S_IMODE(path.lstat().st_mode) for path in copy.rglob("*")}
    assert modes == {"bin": 0o755, "lib": 0o755, "tool": 0o755, "python": 0o777, "a.py": 0o644}


def test_programs_of_a_venv_say_where_it_lies(tree: Path) -> None:
    """In `bin` and pyvenv.cfg, and nowhere else; not through a link in the place of `bin`."""
    (tree / "pyvenv.cfg").write_text(f"command = python -m venv {tree}\n", encoding="utf-8")
    copy = tree.with_name("copy")
    web_release.copy_venv(str(tree), str(copy), ME)
    assert (copy / "bin" / "tool").read_text(encoding="utf-8") == f"#!{copy}/bin/python\n"
    assert (copy / "pyvenv.cfg").read_text(encoding="utf-8") == f"command = python -m venv {copy}\n"
    assert (copy / "lib" / "a.py").read_text(encoding="utf-8") == f"# {tree}\n"

    elsewhere = tree.with_name("elsewhere")
    (tree / "bin").rename(elsewhere)
    (tree / "bin").symlink_to(elsewhere)
    web_release.copy_venv(str(tree), str(tree.with_name("other")), ME)
    assert (elsewhere / "tool").read_text(encoding="utf-8") == f"#!{tree}/bin/python\n"


def test_what_is_no_file_is_named(tree: Path) -> None:
    """A pipe would have root wait for ever; a file of another account's is another name of it."""
    os.mkfifo(tree / "lib" / "pipe")
    with pytest.raises(UnfitError, match=r"^'lib/pipe', a device, pipe or socket$"):
        copy_tree(str(tree), str(tree.with_name("copy")), ME)
    (tree / "lib" / "pipe").unlink()
    with pytest.raises(UnfitError, match=r"^'(bin/tool|lib/a\.py)', another account's file$"):
        copy_tree(str(tree), str(tree.with_name("another")), ME + 1)


@need_root
def test_root_changes_nothing_through_exchanged_names(open_to_all: Path) -> None:
    """
    An account exchanges a directory and a link from the moment they are its own.

    It got hold of files of root's so, 375 of 500 in pip's directory.
    """
    roots = open_to_all / "roots"
    roots.mkdir()
    for number in range(300):
        (roots / f"f{number}").write_text("secret", encoding="utf-8")
        (roots / f"f{number}").chmod(0o600)
    for attempt in range(3):
        top = open_to_all / f"static{attempt}"
        (top / "d").mkdir(parents=True)
        (top / "link").symlink_to(roots)
        for number in range(300):
            (top / "d" / f"f{number}").touch()
        # A name that is another thing at each look is refused.
        with exchanging(top), suppress(UnfitError):
            web_release.give(str(top), "nobody")
            time.sleep(0.1)
            web_release.take(str(top), "nobody")
        taken = [path for path in top.rglob("*") if not path.is_symlink()]
        assert {path.stat().st_uid for path in taken} <= {0}
        assert "secret" not in {p.read_text(encoding="utf-8") for p in taken if p.is_file()}
    kept = {(path.stat().st_uid, path.stat().st_mode & 0o777) for path in roots.iterdir()}
    assert kept == {(0, 0o600)}


@contextmanager
def exchanging(top: Path) -> Iterator[None]:
    """Have an account exchange the names `d` and `link` all the time."""
    nobody = pwd.getpwnam("nobody").pw_uid
    process = subprocess.Popen(["/usr/bin/python3", "-c", _EXCHANGE, str(top)], user=nobody)
    try:
        time.sleep(0.2)
        assert process.poll() is None, "it does not run"
        yield
    finally:
        process.kill()
        process.wait()


def test_build_commands_that_fail_leave_no_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What they have begun, or what root had copied when the disk was full, is unpacked anew."""
    release, account = tmp_path / "release", pwd.getpwuid(ME).pw_name
    (release / "src").mkdir(parents=True)
    (release / "src" / "manage.py").touch()
    built = release / ".built"
    monkeypatch.setattr(web_release, "CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(web_release, "BUILDER", account)
    commands = [["npm", "run", "build"]]
    asked = {"project": str(release / "src"), "commands": commands, "build_s": 60}

    def build(said: str | None) -> int:
        built.touch()
        monkeypatch.setattr(web_release, "run_in_unit", lambda *_: said)
        return web_release.build_commands(
            "web1", "shop", account, str(release), str(tmp_path), asked
        )

    assert (build("no registry"), built.exists()) == (1, False)
    assert "its build command 'npm run build' fails" in capsys.readouterr().err
    assert (build(None), built.exists()) == (0, True)
    monkeypatch.setattr(web_release, "take", full)
    with pytest.raises(OSError, match="No space left"):
        build(None)
    assert not built.exists()


@need_root
def test_builder_has_nothing_between_builds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What pip keeps is root's alone then, and a home begins empty, whatever a run has left."""
    monkeypatch.setattr(web_release, "CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(web_release, "BUILDER", "nobody")
    (tmp_path / "cache" / "home").mkdir(parents=True)
    (tmp_path / "cache" / "home" / ".npmrc").touch()
    kept = tmp_path / "cache" / "pip" / "shop"
    nobody = pwd.getpwnam("nobody").pw_uid
    with web_release.lent(str(kept)), web_release.new_home() as home:
        assert [Path(path).stat().st_uid for path in (kept, home)] == [nobody] * 2
        assert list(Path(home).iterdir()) == []
    assert (kept.stat().st_uid, stat.S_IMODE(kept.stat().st_mode)) == (0, 0o700)
    assert not Path(home).exists()


def test_what_the_builder_may_not_is_said() -> None:
    """A log that the site's account alone may write stops Django as it starts."""
    said = "PermissionError: [Errno 13] Permission denied: '/var/log/shop/shop.log'"
    assert web_release.denied(said, "shop") == (
        "; if it may not open a file, such as a log, that is shop's alone: tierstack-build runs it,"
        " which has the group shop (chmod g+rw FILE)"
    )
    assert web_release.denied("ImportError: no", "shop") == ""


def full(*_: object) -> None:
    """Find no room."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_pip_gets_the_variables_of_the_run() -> None:
    """A proxy's password stands in a file of root's; who is at work is the unit's to say."""
    given = {
        "https_proxy": 'http://me:a"b$c\\d@proxy:3128',
        "HOME": "/root",
        "SUDO_USER": "me",
        "TMPDIR": "/tmp/user/0",
        "LC_ALL": "C.UTF-8",
        "PIP_INDEX_URL": "https://index.test/simple",
        "BROKEN": "a\nUser=root",
    }
    assert environment_file(given) == (
        'LC_ALL="C.UTF-8"\nPIP_INDEX_URL="https://index.test/simple"\n'
        'https_proxy="http://me:a\\"b\\$c\\\\d@proxy:3128"\n'
    )


GONE = """
ERROR: Cannot install -r requirements.txt (line 1) because these package versions have conflicting dependencies.
The conflict is caused by:
    The user requested (constraint) asgiref==3.8.1
"""


def test_version_that_is_gone_is_named() -> None:
    """Where other hosts have a version that the index has no more, nothing in the file is wrong."""
    assert web_release.not_installed(GONE, "requirements.txt", "web1") == (
        "line 1 does not install in the version that web1 has, as pip says above; write versions in"
        " requirements.txt that can be had, and deploy again"
    )
    assert web_release.not_installed(
        "ERROR: No matching distribution found for x==9", "r.txt", ""
    ) == ("x==9 does not install, as pip says above; correct that line, and deploy again")


def test_output_is_read_to_the_end_of_its_program(tmp_path: Path) -> None:
    """All that it said, and nothing of a child that lives on and keeps the output open."""
    pid = tmp_path / "pid"
    child = f"setsid sh -c 'echo $$ > {pid}; for i in $(seq 2000); do echo x; sleep 0.01; done' &"
    wait = f"until test -s {pid}; do sleep 0.01; done"
    command = ["sh", "-c", f"{child} {wait}; head -c 50000 /dev/zero | tr '\\0' y; exit 3"]
    try:
        done = web_release.captured(command, dict(os.environ))
    finally:
        with suppress(OSError, ValueError):
            os.kill(int(pid.read_text(encoding="utf-8")), signal.SIGKILL)
    assert done.stdout.count("x") < 2000, "its end was waited for"
    assert (done.returncode, done.stdout.count("y")) == (3, 50000)


def test_limit_is_said_with_what_to_do() -> None:
    """A look at the site has a limit of its own, which no setting makes longer."""
    assert str(web_release.TooLongError("its build command 'npm ci'", 60, "")) == (
        "its build command 'npm ci' took longer than 60 s and was ended; see what it waits for, or"
        " write a larger build_s in the site, and deploy again"
    )
    look = web_release.TooLongError("manage.py check", web_release.CHECK_S, "")
    assert "build_s" not in str(look)
