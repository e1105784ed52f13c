"""What a release of a site is: its files, and the name that follows from them."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import stat
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tierstack.model.cluster import Site
from tierstack.model.errors import TierstackError
from tierstack.model.source import Contents, contents_of

#: Python of the supported system; a venv is made with it.
PYTHON = "3.11"

#: The same with its last part, which requirements may name.
PYTHON_FULL = "3.11.2"

#: Most that a source may hold, in MiB: more is a directory of uploads, or the wrong directory.
SOURCE_LIMIT_MB = 512

#: One time for all files, so that equal sources give equal archives.
_MTIME = 315532800  # 1980-01-01


@dataclass(frozen=True)
class Source:
    """
    A site's source, packed.

    Args:
        archive: tar.gz of its files.
        digest: hash of their names, modes and contents.
        contents: which files these are, and which stay here.
    """

    archive: bytes
    digest: str
    contents: Contents

    def __repr__(self) -> str:
        return f"Source({self.digest})"


@dataclass(frozen=True)
class Release:
    """
    One release of a site and where it lies on each web host.

    Args:
        id: 12 hexadecimal digits; equal sources and settings have equal ones.
        path: its directory.
    """

    id: str
    path: str

    @property
    def source(self) -> str:
        """The site's source, as the user has it."""
        return f"{self.path}/src"

    @property
    def venv(self) -> str:
        """The site's own virtual environment."""
        return f"{self.path}/venv"

    @property
    def site_packages(self) -> str:
        """Where its requirements are installed."""
        return f"{self.venv}/lib/python{PYTHON}/site-packages"

    @property
    def static(self) -> str:
        """STATIC_ROOT: its collected static files."""
        return f"{self.path}/static"

    def project(self, site: Site) -> str:
        """Return the directory that holds manage.py."""
        return os.path.normpath(f"{self.source}/{site.settings.project}")


def release_of(site: Site, source: Source) -> Release:
    """
    Return the release that a source makes.

    What else decides the venv or the static files is part of its name: another Python, another
    requirements file, other settings or variables of the site are another release.
    """
    settings = site.settings
    parts = {
        "source": source.digest,
        "python": PYTHON,
        "requirements": settings.requirements,
        "project": settings.project,
        "settings": settings.settings,
        "environment": settings.environment,
        # Left out where there is none, as releases of before have it.
        **({"build": settings.build} if settings.build else {}),
        "static": [settings.static_url, settings.hashed_static],
    }
    text = json.dumps(parts, sort_keys=True)
    name = hashlib.sha256(text.encode()).hexdigest()[:12]
    return Release(id=name, path=f"{site.home}/releases/{name}")


def pack(directory: Path, include: Sequence[str] = ()) -> Source:
    """
    Pack the files of a source directory; modes and symbolic links are kept, owners and times are not.

    Args:
        directory: the site's source.
        include: as of `contents_of`.

    Raises:
        TierstackError: it holds more than a source does, or a file cannot be read.
    """
    contents = contents_of(directory, include)
    digest = hashlib.sha256()
    buffer = io.BytesIO()
    total = 0
    with (
        gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0, compresslevel=6) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for name in contents.files:
            entry, content = _entry(directory, name)
            total += len(content)
            if total > SOURCE_LIMIT_MB * 1024 * 1024:
                raise TierstackError(
                    f"{directory} holds more than {SOURCE_LIMIT_MB} MiB; move uploads and data out"
                    " of it, or let git ignore them"
                )
            archive.addfile(entry, io.BytesIO(content))
            for part in (entry.name, oct(entry.mode), entry.linkname):
                digest.update(part.encode("utf-8", "surrogateescape") + b"\0")
            digest.update(hashlib.sha256(content).digest())
    return Source(buffer.getvalue(), digest.hexdigest(), contents)


def _entry(directory: Path, name: str) -> tuple[tarfile.TarInfo, bytes]:
    path = directory / name
    entry = tarfile.TarInfo(name)
    entry.mtime = _MTIME
    try:
        found = path.lstat()
        if stat.S_ISLNK(found.st_mode):
            entry.type, entry.mode = tarfile.SYMTYPE, 0o777
            entry.linkname = str(path.readlink())
            return entry, b""
        if not stat.S_ISREG(found.st_mode):
            raise TierstackError(f"{path} is neither a file nor a link; move it out of the source")
        content = path.read_bytes()
    except OSError as error:
        raise TierstackError(f"{path} cannot be read: {error.strerror}") from None
    entry.mode = 0o755 if found.st_mode & stat.S_IXUSR else 0o644
    entry.size = len(content)
    return entry, content
