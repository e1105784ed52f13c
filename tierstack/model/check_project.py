"""What a site's project would stop at on the hosts, as far as its own files tell it beforehand."""

from __future__ import annotations

import ast
import difflib
import json
from collections.abc import Iterator
from pathlib import Path

from packaging.markers import InvalidMarker, Marker
from packaging.requirements import Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name

from tierstack.model.errors import Mistake
from tierstack.model.release import PYTHON, PYTHON_FULL
from tierstack.model.requirements import Line, Requirements, read_requirements
from tierstack.model.settings import SiteSettings
from tierstack.model.settings_text import last_assignments, module_file

#: By which Django reaches PostgreSQL. Source: Django documentation, "PostgreSQL notes".
_DRIVERS = ("psycopg", "psycopg-binary", "psycopg2", "psycopg2-binary")

#: Clients of memcached whose Django backends the cluster fits its settings to.
_CACHE_CLIENTS = ("pymemcache", "pylibmc")

#: What PyPI has as source only, for Linux, and the Debian packages of the libraries beside a compiler
#: that its build needs, as its own documentation says.
_SOURCE_ONLY: dict[str, tuple[str, ...]] = {
    "mysqlclient": ("default-libmysqlclient-dev", "pkg-config"),
    "psycopg-c": ("libpq-dev",),
    "psycopg2": ("libpq-dev",),
    "pycairo": ("libcairo2-dev", "pkg-config"),
    "python-ldap": ("libldap2-dev", "libsasl2-dev"),
    "uwsgi": (),
}

#: The first Django that a newer Python than that of the hosts is needed for, and which.
#: Source: Django documentation, "What Python version can I use with Django?".
_TOO_NEW_DJANGO, _ITS_PYTHON, _LAST_DJANGO = "6.0", "3.12", "5.2"

#: A version of each Django that the hosts' Python runs, in its last parts.
_RUNS = tuple(
    f"{minor}.{patch}"
    for minor in ("2.2", "3.0", "3.1", "3.2", "4.0", "4.1", "4.2", "5.0", "5.1", "5.2")
    for patch in range(60)
)

#: Versions of those that it does not run.
_TOO_NEW = tuple(
    f"{major}.{minor}.{patch}"
    for major in range(6, 10)
    for minor in range(3)
    for patch in range(30)
)

#: What pip compares conditions of requirements with, on the hosts.
_HOSTS = {
    "implementation_name": "cpython",
    "os_name": "posix",
    "platform_python_implementation": "CPython",
    "platform_system": "Linux",
    "python_full_version": PYTHON_FULL,
    "python_version": PYTHON,
    "sys_platform": "linux",
    "extra": "",
}


def check_project(site: SiteSettings, source: Path, where: str) -> list[Mistake]:
    """
    Return what is wrong with a project's requirements and settings.

    Args:
        site: the site's settings.
        source: its source, which is a directory.
        where: the site as messages name it, e.g. "sites[0]".
    """
    if not (source / site.requirements).is_file():
        return []  # Told already.
    found = read_requirements(source, site.requirements)
    mistakes = [Mistake(f"{where}.packages", what) for what in _tools(site, found)]
    texts = [*_missing(site, found), *_outside(source, found), *_python(found)]
    mistakes += [Mistake(f"{where}.requirements", what) for what in texts]
    mistakes += [Mistake(f"{where}.settings", what) for what in _settings(site, source)]
    return mistakes


def _tools(site: SiteSettings, found: Requirements) -> Iterator[str]:
    """Say which lines need Debian packages that no web host gets: to fetch something, or to build it."""
    needs: dict[tuple[str, ...], str] = {}
    for line, package in found.fetched:
        needs.setdefault(
            (package,), f"{line.where}: pip needs {package} on every web host for that"
        )
    for line, requirement in _applying(found.packages):
        if debian := _built_with(requirement):
            what = (
                f"{line.where}: {requirement.name} comes as source, and is built on every web host"
            )
            needs.setdefault(debian, f"{what} by {', '.join(debian[:-1])} and {debian[-1]}")
    lacking = {
        debian: what for debian, what in needs.items() if not set(debian) <= {*site.packages}
    }
    every = list(dict.fromkeys([*site.packages, *(name for debian in lacking for name in debian)]))
    for what in lacking.values():
        yield f"{what}; write packages={json.dumps(every)}"


def _built_with(requirement: Requirement) -> tuple[str, ...]:
    """Return the Debian packages that build a requirement which PyPI has no built version of."""
    names = {requirement.name, *(f"{requirement.name}-{extra}" for extra in requirement.extras)}
    known = [_SOURCE_ONLY[name] for name in map(canonicalize_name, names) if name in _SOURCE_ONLY]
    return ("build-essential", "python3-dev", *known[0]) if known else ()


def _missing(site: SiteSettings, found: Requirements) -> Iterator[str]:
    """Say what the cluster's database and cache need and no line brings."""
    if found.opaque:
        return  # What is required by what we cannot read is for pip to say.
    if not _applying(found.of(*_DRIVERS)):
        older = _excludes(found, ("4.2", "5.0", "5.1", "5.2"))
        line = "psycopg2-binary>=2.9" if older else "psycopg[binary]>=3.2"
        yield (
            f"{site.requirements} has no driver for PostgreSQL, which is the cluster's database;"
            f" add the line {line}"
        )
    if not _applying(found.of(*_CACHE_CLIENTS)):
        yield (
            f"{site.requirements} has no client for memcached, which is the cluster's cache;"
            " add the line pymemcache>=4"
        )


def _outside(source: Path, found: Requirements) -> Iterator[str]:
    """Say which lines name a directory that no web host gets."""
    for line in found.outside:
        condition = line.text.partition(";")[2].strip()
        try:
            if condition and not Marker(condition).evaluate(_HOSTS):
                continue
        except InvalidMarker:
            pass  # pip says what is wrong with it.
        yield (
            f'{line.where}: "{line.text}" is not in {source}, and a release holds nothing else;'
            " write a path that is, relative to it"
        )


def _python(found: Requirements) -> Iterator[str]:
    """Say what needs another Python than the hosts have."""
    way_on = f"and Debian 12 has {PYTHON}"
    for line, requirement in _applying(found.of("Django")):
        pinned = [requirement.specifier, *_constraints(found, "Django")]
        # What is older, or of somebody's own, fits none of these: that is for pip to say.
        runs, too_new = (
            any(_allows(pinned, version) for version in known) for known in (_RUNS, _TOO_NEW)
        )
        if too_new and not runs:
            yield (
                f"{line.where}: {requirement} is Django {_TOO_NEW_DJANGO} or later, which needs Python"
                f" {_ITS_PYTHON}, {way_on}; write Django>={_LAST_DJANGO},<{_TOO_NEW_DJANGO}"
            )
    for file, python in found.pythons:
        try:
            fits = SpecifierSet(python).contains(PYTHON_FULL, prereleases=True)
        except InvalidSpecifier:
            continue
        if not fits:
            yield (
                f'{file}: requires-python = "{python}", {way_on}; write what runs with that, e.g.'
                f' ">={PYTHON}"'
            )


def _settings(site: SiteSettings, source: Path) -> Iterator[str]:
    """Say what the text of the settings module tells: that it is not there, or its database."""
    project = (source / site.project).resolve()
    roots = [project, source]
    if module_file(roots, site.settings) is None:
        known = _settings_modules(project)
        package = site.settings.partition(".")[0]
        ours = any(
            (root / package).is_dir() or (root / f"{package}.py").is_file() for root in roots
        )
        close = difflib.get_close_matches(site.settings, known, n=1, cutoff=0.5 if ours else 0.8)
        # It may also come from a package that the requirements bring.
        if ours or close:
            hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"
            yield f'no module "{site.settings}" in {project}; {hint}'
        return
    assigned = last_assignments(source, roots, site.settings)
    debug, databases = assigned.get("DEBUG"), assigned.get("DATABASES")
    if debug and isinstance(debug.value, ast.Constant) and debug.value.value:
        yield (
            f"{debug.where}: DEBUG is {debug.value.value!r}, so the site takes itself for one in"
            " development; write DEBUG = False there, or name the module for production here"
        )
    engine = _engine(databases.value) if databases else ""
    # Also wrappers of Django's own engines are called so: postgresql, postgis; and psqlextra.
    if databases and engine and "postg" not in engine and "psql" not in engine:
        yield (
            f"{databases.where}: DATABASES['default'] has the engine '{engine}', and the cluster's"
            " database is PostgreSQL; write 'ENGINE': 'django.db.backends.postgresql' there, and"
            " the cluster adds the rest"
        )


def _settings_modules(project: Path) -> list[str]:
    files = [*project.glob("*/settings*.py"), *project.glob("*/settings/*.py")]
    files += [*project.glob("*/*/settings*.py"), *project.glob("settings*.py")]
    modules = {".".join(file.relative_to(project).with_suffix("").parts) for file in files}
    return sorted(module.removesuffix(".__init__") for module in modules)


def _engine(databases: ast.expr) -> str:
    """Return the engine that DATABASES gives "default" in so many words; "" if it does not."""
    default = _item(databases, "default")
    engine = _item(default, "ENGINE") if default else None
    return (
        engine.value if isinstance(engine, ast.Constant) and isinstance(engine.value, str) else ""
    )


def _item(value: ast.expr, name: str) -> ast.expr | None:
    if not isinstance(value, ast.Dict) or None in value.keys:
        return None
    for key, item in zip(value.keys, value.values, strict=True):
        if isinstance(key, ast.Constant) and key.value == name:
            return item
    return None


def _applying(found: list[tuple[Line, Requirement]]) -> list[tuple[Line, Requirement]]:
    """Return the requirements whose condition holds on the hosts."""
    return [
        (line, requirement)
        for line, requirement in found
        if requirement.marker is None or requirement.marker.evaluate(_HOSTS)
    ]


def _constraints(found: Requirements, name: str) -> list[SpecifierSet]:
    return [given.specifier for _, given in found.constraints if given.name.lower() == name.lower()]


def _excludes(found: Requirements, minors: tuple[str, ...]) -> bool:
    """Whether the requirements allow none of these versions of Django."""
    pinned = [requirement.specifier for _, requirement in _applying(found.of("Django"))]
    pinned += _constraints(found, "Django")
    versions = [version for version in _RUNS if version.startswith(tuple(f"{m}." for m in minors))]
    return bool(pinned) and not any(_allows(pinned, version) for version in versions)


def _allows(specifiers: list[SpecifierSet], version: str) -> bool:
    return all(specifier.contains(version, prereleases=True) for specifier in specifiers)
