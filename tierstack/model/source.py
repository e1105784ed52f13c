"""Which files of a project make a release, which stay here, and what is to be said of both."""

from __future__ import annotations

import fnmatch
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tierstack.model.cluster import Cluster, Site
from tierstack.model.errors import Mistake, TierstackError
from tierstack.model.git import git_names

#: Never a part of a release: other people's code, and caches.
EXCLUDED_DIRECTORIES = frozenset({".git", "__pycache__", ".venv", "venv", "node_modules"})

#: The secrets file of an inventory that lies in the project, its lock, its copies.
_NEVER = ".secrets.toml"

#: Left out unless `include` names them: a developer's own data, and what logs in somewhere.
_PRIVATE_DIRECTORIES = frozenset(
    {".aws", ".azure", ".docker", ".envs", ".gcloud", ".gnupg", ".kube", ".ssh"}
)
_PRIVATE_NAMES = (
    ".env", ".env.*", ".git-credentials", ".my.cnf", ".netrc", ".pgpass", ".pypirc", "*.env",
    "id_dsa", "id_ecdsa", "id_ed25519", "id_rsa", "*.kdbx", "*.key", "*.p12", "*.pfx", "*.ppk",
    "*.dump", "*.pgdump", "*.sql.bz2", "*.sql.gz", "*.sql.xz", "*.sql.zst", "*.sqlite3",
    "*.tfstate",
)  # fmt: skip
_EXAMPLES = (".example", ".sample", ".template", ".dist", ".defaults")

#: What a database's dump begins with, and a database of SQLite.
_DUMPS = re.compile(
    rb"PGDMP|SQLite format 3\0|(--\s*)*-- (PostgreSQL|MySQL|MariaDB) (database )?dump"
)
_KEY = re.compile(rb"-----BEGIN ([A-Z]+ )*PRIVATE KEY-----")
_MAY_HOLD_KEYS = frozenset({"", ".pem", ".crt", ".cer", ".json", ".asc", ".txt"})
_KEY_FILE_KB = 64

#: Directories that programs make for browsers, and what lies in them.
_ASSET_DIRECTORIES = frozenset({"assets", "build", "bundles", "dist", "public", "static"})
_ASSET_SUFFIXES = frozenset({
    ".css", ".gif", ".html", ".ico", ".jpg", ".js", ".json", ".map", ".mjs", ".png", ".svg",
    ".ttf", ".webp", ".woff", ".woff2",
})  # fmt: skip
#: Lies where `collectstatic` has put files; each release collects its own.
_COLLECTED = ("staticfiles.json", "admin/css/base.css")

#: How many names a sentence has.
_NAMED = 6


@dataclass(frozen=True)
class Contents:
    """
    What of a project goes into a release. All names are relative to its directory, and sorted.

    Args:
        files: what makes the source.
        left_out: secrets and dumps that would be among them.
        ignored: what git ignores and the site may look for.
        commit: git's short name of the commit; "" outside of a work tree, or before the first.
        uncommitted: what of the source is not as in the commit.
        unmatched: patterns of `include` that no file fits.
        in_git: whether git says what belongs to it.
    """

    files: tuple[str, ...]
    left_out: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    commit: str = ""
    uncommitted: tuple[str, ...] = ()
    unmatched: tuple[str, ...] = ()
    in_git: bool = False


def contents_of(directory: Path, include: Sequence[str] = ()) -> Contents:
    """
    Look which files of a directory make a source.

    In a git work tree: what git tracks, and what it neither tracks nor ignores. Elsewhere: every
    file. Never caches and other people's code; secrets and dumps only where `include` names them.

    Args:
        directory: the project's.
        include: patterns of files to take along whatever git or their names say.

    Raises:
        TierstackError: git does not say what belongs to it.
    """
    listed = git_names(directory, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    # A project that git ignores as a whole is no less the user's source.
    in_git = bool(listed)
    names = set(_present(directory, listed) if in_git else _walk(directory, directory))
    wanted, unmatched = _included(directory, include)
    files = {name for name in names | wanted if not _never(name, name in wanted)}
    left_out = {name for name in files - wanted if _is_private(directory, name)}
    ignored = _ignored(directory) - wanted if in_git else set()
    commit, uncommitted = _state(directory) if in_git else ("", set())
    return Contents(
        files=tuple(sorted(files - left_out)),
        left_out=tuple(sorted(left_out)),
        ignored=tuple(sorted(ignored)),
        commit=commit,
        uncommitted=tuple(
            sorted(name for name in uncommitted - left_out if not _never(name, wanted=False))
        ),
        unmatched=tuple(unmatched),
        in_git=in_git,
    )


def check_sources(cluster: Cluster) -> list[Mistake]:
    """Return what is wrong with the files of the sites."""
    mistakes = []
    for index, site in enumerate(cluster.sites):
        where = f"sites[{index}]"
        try:
            found = contents_of(site.source, site.settings.include)
        except TierstackError as error:
            mistakes.append(Mistake(f"{where}.source", str(error)))
            continue
        for pattern in found.unmatched:
            what = f'"{pattern}" fits no file in {site.source}; correct it, or take it out'
            mistakes.append(Mistake(f"{where}.include", what))
    return mistakes


def sentences(site: Site, found: Contents) -> list[str]:
    """Say what a release of a site holds, what stays here, and what it may lack."""
    what = f"{len(found.files)} files of {site.source}, which git does not know"
    if found.in_git:
        what = f"commit {found.commit}" if found.commit else "what has no commit yet"
    if found.in_git and found.commit and found.uncommitted:
        names = found.uncommitted
        files = "1 file that is" if len(names) == 1 else f"{len(names)} files that are"
        what += f" and {files} not committed ({_listed(names)})"
    said = [f"A release of {site.name} holds {what}."]
    if found.left_out:
        said.append(
            f"Left out of it, as secrets or data by name or content: {_listed(found.left_out)}."
            f" What the site needs of it, include={json.dumps(list(found.left_out[:1]))} in the site"
            " takes along."
        )
    if found.ignored:
        patterns = Counter(_pattern(name) for name in found.ignored)
        counted = [f"{pattern} ({count})" for pattern, count in sorted(patterns.items())]
        every = json.dumps(sorted(patterns)[:_NAMED])
        said.append(
            f"Git ignores what the site may look for, and a release goes without it:"
            f" {_listed(counted)}. To take it along, write include={every} in the site."
        )
    return said


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _pattern(name: str) -> str:
    """Return a pattern that fits a file and those made together with it."""
    *folders, last = name.split("/")
    if last.endswith(".mo"):
        return "/".join([*folders[:-2], "*", folders[-1], "*.mo"])
    first = next(number for number, one in enumerate(folders) if one in _ASSET_DIRECTORIES)
    # Below `static` lie the project's own files, too; what is made lies in one of its directories.
    return "/".join([*folders[: first + 2], "**"])


# Names


def _walk(directory: Path, top: Path) -> Iterator[str]:
    for folder, folders, files in os.walk(top):
        folders[:] = [name for name in folders if name not in EXCLUDED_DIRECTORIES]
        links = [name for name in folders if (Path(folder) / name).is_symlink()]
        for name in [*files, *links]:
            yield str((Path(folder) / name).relative_to(directory))


def _included(directory: Path, include: Iterable[str]) -> tuple[set[str], list[str]]:
    """Return the files that fit patterns, and the patterns that fit none."""
    wanted: set[str] = set()
    unmatched = []
    for pattern in include:
        fitting: set[str] = set()
        for path in directory.glob(pattern):
            if path.is_dir() and not path.is_symlink():
                fitting.update(_walk(directory, path))
            else:
                fitting.add(str(path.relative_to(directory)))
        wanted |= fitting
        unmatched += [] if fitting else [pattern]
    return wanted, unmatched


def _never(name: str, wanted: bool) -> bool:
    """Return whether a file is a cache, other people's code, or the cluster's own secret."""
    *_, last = parts = name.split("/")
    if _NEVER in last or ".git" in parts:
        return True
    return not wanted and (bool(EXCLUDED_DIRECTORIES & set(parts)) or last.endswith(".pyc"))


def _is_private(directory: Path, name: str) -> bool:
    """Return whether a file is a secret or somebody's data, by its name or by what is in it."""
    *folders, last = name.lower().split("/")
    if last.endswith(_EXAMPLES):
        return False
    if _PRIVATE_DIRECTORIES & set(folders):
        return True
    if any(fnmatch.fnmatchcase(last, pattern) for pattern in _PRIVATE_NAMES):
        return True
    path = directory / name
    if path.is_symlink() or not path.is_file():
        return False
    keys = path.suffix.lower() in _MAY_HOLD_KEYS
    try:
        with path.open("rb") as file:
            begin = file.read(_KEY_FILE_KB * 1024 if keys else 256)
    except OSError:
        return False  # Whoever packs it says why.
    return bool(_DUMPS.match(begin) or (keys and _KEY.search(begin)))


# What git says


def _present(directory: Path, listed: Iterable[str]) -> Iterator[str]:
    for name in listed:
        path = directory / name
        if path.is_dir() and not path.is_symlink():
            yield from _walk(directory, path)  # a submodule
        elif os.path.lexists(path):
            yield name


def _state(directory: Path) -> tuple[str, set[str]]:
    """Return the short name of the commit, and the files below a directory that are not as in it."""
    try:
        commit = git_names(directory, "rev-parse", "--short", "HEAD")[0].strip()
    except TierstackError:
        return "", set()  # There is none yet.
    top = Path(git_names(directory, "rev-parse", "--show-toplevel")[0].rstrip("\n"))
    arguments = ("--no-renames", "--untracked-files=all", "--ignore-submodules=dirty")
    lines = git_names(directory, "status", "--porcelain=v1", "-z", *arguments, "--", ".")
    changed = [top / line[3:] for line in lines]
    return commit, {str(path.relative_to(directory.resolve())) for path in changed}


def _ignored(directory: Path) -> set[str]:
    """Return what git ignores of translations and of files for browsers."""
    arguments = ("--others", "--ignored", "--exclude-standard", "--directory")
    found: set[str] = set()
    for name in git_names(directory, "ls-files", "-z", *arguments):
        path = directory / name
        if EXCLUDED_DIRECTORIES & set(Path(name).parts) or path.is_symlink():
            continue
        found.update(_walk(directory, path) if path.is_dir() else [name])
    collected = {
        name.removesuffix(mark)
        for name in found
        for mark in _COLLECTED
        if name.endswith("/" + mark)
    }
    return {
        name for name in found if _is_looked_for(name) and not name.startswith(tuple(collected))
    }


def _is_looked_for(name: str) -> bool:
    path = Path(name)
    if path.suffix == ".mo":
        return path.parent.name == "LC_MESSAGES" and len(path.parts) > 2
    return path.suffix in _ASSET_SUFFIXES and bool(_ASSET_DIRECTORIES & set(path.parts[:-1]))
