"""What a site's requirements say, as far as their text tells it without pip."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

#: The Debian package of each program that pip fetches by.
#: Source: pip documentation, "VCS Support".
TOOLS = {"git": "git", "hg": "mercurial", "svn": "subversion"}

_FETCHED = re.compile(rf"(?:^|[\s=@])({'|'.join(TOOLS)})\+\w")
_FILE = re.compile(r"(-r|--requirement|-c|--constraint)[\s=]*(\S+)")
_EDITABLE = re.compile(r"(?:-e|--editable)[\s=]*")
_PATH = re.compile(r"(?P<path>\.{1,2}(?:/[^\[\]\s;]*)?)(?:\[(?P<extras>[^\]]*)\])?\s*(?:;.*)?")
# What pip says of a single requirement after it, such as --hash=sha256:…
_OPTIONS = re.compile(r"\s--[a-z].*$")
_COMMENT = re.compile(r"(^|\s+)#.*$")
# pip leaves such a line out where its condition does not hold, which is for pip to say.
_CONDITION = re.compile(r"\s;")


@dataclass(frozen=True)
class Line:
    """A line of a requirements file, or a dependency in a pyproject.toml (then `number` is 0)."""

    file: str
    number: int
    text: str

    @property
    def where(self) -> str:
        """The line as messages name it."""
        return f"{self.file}, line {self.number}" if self.number else self.file


@dataclass
class Requirements:
    """
    What is to be installed for a site.

    Args:
        packages: each requirement that names a package, with its line; conditions do not count yet.
        constraints: the same of constraints files: they say which version, and install nothing.
        fetched: lines that a program such as git fetches, with that program's Debian package.
        pythons: what projects that are installed from the source itself say of Python, with the file.
        outside: lines that name a directory which is not in the source.
        opaque: whether something is installed whose own requirements no text here tells.
    """

    packages: list[tuple[Line, Requirement]] = field(default_factory=list)
    constraints: list[tuple[Line, Requirement]] = field(default_factory=list)
    fetched: list[tuple[Line, str]] = field(default_factory=list)
    pythons: list[tuple[str, str]] = field(default_factory=list)
    outside: list[Line] = field(default_factory=list)
    opaque: bool = False

    def of(self, *names: str) -> list[tuple[Line, Requirement]]:
        """Return the requirements of packages with one of these names, however it is spelled."""
        wanted = {canonicalize_name(name) for name in names}
        return [found for found in self.packages if canonicalize_name(found[1].name) in wanted]


def read_requirements(source: Path, name: str) -> Requirements:
    """
    Read a requirements file, and what it includes: `-r`, `-c`, `.` and other projects in the source.

    Args:
        source: the site's source; what lies outside of it is not looked at.
        name: the file, relative to it.

    Source: pip documentation, "Requirements File Format"; PyPA, "pyproject.toml specification".
    """
    found = Requirements()
    waiting, seen = [(source / name, False)], set()
    while waiting:
        path, constrains = waiting.pop(0)
        path = path.resolve()
        if path in seen:
            continue
        seen.add(path)
        if not path.is_relative_to(source) or not path.is_file():
            found.opaque |= not constrains
            continue
        file = str(path.relative_to(source))
        for number, text in _lines(path):
            line = Line(file, number, text)
            if include := _FILE.match(text):
                constrains_too = constrains or include[1] in ("-c", "--constraint")
                waiting.append((path.parent / include[2], constrains_too))
            elif text:
                # pip takes a path from where it runs, which is the source.
                _read_line(line, source, found, constrains=constrains)
    return found


def _read_line(line: Line, source: Path, found: Requirements, *, constrains: bool) -> None:
    text = _EDITABLE.sub("", line.text)
    if fetched := _FETCHED.search(line.text):
        # The package itself is not in what this text tells, nor is what it requires.
        found.opaque = True
        if not _CONDITION.search(line.text):
            found.fetched.append((line, TOOLS[fetched[1]]))
        return
    if local := _PATH.fullmatch(text):
        folder = (source / local["path"]).resolve()
        if not folder.is_relative_to(source) or not folder.exists():
            found.outside.append(line)
        extras = [extra.strip() for extra in (local["extras"] or "").split(",") if extra.strip()]
        _read_project(source / local["path"], extras, source, found)
        return
    if text.startswith("-"):
        return
    try:
        requirement = Requirement(_OPTIONS.sub("", text).strip())
    except InvalidRequirement:
        found.opaque = True
        return
    (found.constraints if constrains else found.packages).append((line, requirement))


def _read_project(folder: Path, extras: list[str], source: Path, found: Requirements) -> None:
    """Add what a project in the source requires, as its pyproject.toml has it."""
    file = folder.resolve() / "pyproject.toml"
    try:
        data: dict[str, Any] = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        found.opaque = True
        return
    if not file.is_relative_to(source):
        found.opaque = True
        return
    shown = str(file.relative_to(source))
    project, tool = data.get("project"), data.get("tool")
    poetry = tool.get("poetry") if isinstance(tool, dict) else None
    texts: list[str] = []
    if isinstance(project, dict):
        if {"dependencies", "optional-dependencies"} & set(project.get("dynamic", ())):
            found.opaque = True
        texts += project.get("dependencies", ())
        optional = project.get("optional-dependencies", {})
        # An extra may be made of others of the same project: "shop[production]" in shop's own.
        own = re.compile(rf"{re.escape(str(project.get('name')))}\[([^\]]*)\]\s*", re.IGNORECASE)
        waiting, seen = list(extras), set()
        while waiting:
            extra = waiting.pop()
            for text in optional.get(extra, ()) if extra not in seen else ():
                if more := own.fullmatch(str(text)):
                    waiting += [name.strip() for name in more[1].split(",")]
                else:
                    texts.append(text)
            seen.add(extra)
        if python := project.get("requires-python"):
            found.pythons.append((shown, str(python)))
    elif isinstance(poetry, dict):
        texts += [name for name in poetry.get("dependencies", {}) if name.lower() != "python"]
    else:
        found.opaque = True
    for text in texts:
        _read_line(Line(shown, 0, str(text)), source, found, constrains=False)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield each line with the number of its first; one that ends in a backslash goes on."""
    start, text = 0, ""
    content = path.read_text(encoding="utf-8-sig", errors="replace")
    for number, line in enumerate(content.splitlines(), start=1):
        start = start or number
        text += line
        if text.endswith("\\") and not line.lstrip().startswith("#"):
            text = text[:-1]
            continue
        yield start, _COMMENT.sub("", text).strip()
        start, text = 0, ""
    if text:
        yield start, text.strip()
