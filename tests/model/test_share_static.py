"""Static files of a release are merged into those of earlier ones."""

from __future__ import annotations

import base64
import io
import subprocess
import sys
import tarfile
from pathlib import Path

from tierstack.operations.static import _MERGE, StaticArchive


def _merge(target: Path, release: str, files: dict[str, bytes]) -> subprocess.CompletedProcess[str]:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mtime, member.mode = len(content), 1_000_000_000, 0o600
            archive.addfile(member, io.BytesIO(content))
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    return subprocess.run(
        [sys.executable, "-c", _MERGE, str(target), release],
        input=base64.encodebytes(packed.getvalue()).decode(),
        capture_output=True,
        text=True,
    )


def _files(target: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(target)): path.read_bytes()
        for path in target.rglob("*")
        if path.is_file() and ".releases" not in path.parts
    }


def test_files_of_both_releases_are_served(tmp_path: Path) -> None:
    """A new release adds and replaces; what only the old one has stays."""
    assert _merge(tmp_path, "r1", {"./css/a.111.css": b"1", "./css/a.css": b"1"}).returncode == 0
    done = _merge(tmp_path, "r2", {"css/a.222.css": b"2\x00\xff", "css/a.css": b"2", "é.png": b""})
    assert done.stdout == "3 new static files\n"
    assert _files(tmp_path) == {
        "css/a.111.css": b"1",
        "css/a.222.css": b"2\x00\xff",
        "css/a.css": b"2",
        "é.png": b"",
    }
    assert (tmp_path / "css/a.css").stat().st_mode & 0o777 == 0o644
    assert sorted(path.name for path in (tmp_path / ".releases").iterdir()) == ["r1", "r2"]


def test_same_file_keeps_its_date(tmp_path: Path) -> None:
    """Browsers' copies of a file that did not change stay good: its ETag has its date."""
    _merge(tmp_path, "r1", {"a.css": b"same"})
    before = (tmp_path / "a.css").stat()
    assert _merge(tmp_path, "r2", {"a.css": b"same"}).stdout == "0 new static files\n"
    assert (tmp_path / "a.css").stat().st_ino == before.st_ino


def test_archive_stays_in_its_directory(tmp_path: Path) -> None:
    """A name that leads out is refused, and the release is not called complete."""
    target = tmp_path / "static"
    target.mkdir()
    done = _merge(target, "r1", {"../out.css": b"x"})
    assert done.returncode == 1
    assert done.stderr == "the archive leads out of its directory: '../out.css'\n"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["static"]


def test_archive_that_was_cut_off_counts_for_nothing(tmp_path: Path) -> None:
    """A connection lost half-way leaves no marker, and no lines that pass for an archive."""
    assert StaticArchive().process(["H4sIAAAA", "AAAA"]) == []
    whole = StaticArchive().process(["H4sIAAAA", "-- whole --"])
    assert whole == ["H4sIAAAA"]
    cut_off = subprocess.run(
        [sys.executable, "-c", _MERGE, str(tmp_path), "r1"],
        input="H4sIAAAA\n",
        capture_output=True,
        text=True,
    )
    assert cut_off.returncode != 0
    assert not (tmp_path / ".releases").exists()
