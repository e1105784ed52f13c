"""A release is named by what is in it: equal sources make equal releases, and nothing stray gets in."""

from __future__ import annotations

import io
import sys
import tarfile
from pathlib import Path

import pytest

from roles.web.mod_python import python_path
from tests.model.conftest import OWN, SITES, Home
from tierstack.agents import web_release
from tierstack.model import TierstackError
from tierstack.model import release as model
from tierstack.model.release import pack, release_of


def test_archive_keeps_modes_and_links(project: Path) -> None:
    """Modes and links are kept, owners and times are not."""
    with tarfile.open(fileobj=io.BytesIO(pack(project).archive)) as archive:
        entries = {entry.name: entry for entry in archive.getmembers()}
    assert list(entries) == OWN
    assert entries["manage.py"].mode == 0o755
    assert entries["shop/settings.py"].mode == 0o644
    assert entries["latest"].linkname == "shop"
    assert {(entry.uid, entry.mtime) for entry in entries.values()} == {(0, 315532800)}


def test_equal_sources_are_equal(project: Path) -> None:
    """Touching a file changes nothing; a content, a mode or a name does."""
    first = pack(project)
    (project / "manage.py").touch()
    assert pack(project) == first
    seen = {first.digest}
    (project / "manage.py").chmod(0o644)
    seen.add(pack(project).digest)
    (project / "shop" / "settings.py").write_text("DEBUG = 0\n", encoding="utf-8")
    seen.add(pack(project).digest)
    (project / "build" / "out.txt").rename(project / "build" / "in.txt")
    seen.add(pack(project).digest)
    assert len(seen) == 4


def test_too_large_a_source_is_refused(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory full of uploads is not shipped to every host."""
    monkeypatch.setattr(model, "SOURCE_LIMIT_MB", 0)
    with pytest.raises(TierstackError) as caught:
        pack(project)
    assert str(caught.value) == (
        f"{project} holds more than 0 MiB; move uploads and data out of it, or let git ignore them"
    )


def test_what_decides_the_venv_names_the_release(home: Home) -> None:
    """Another requirements file or variable makes another release of the same source."""
    site = home.load().sites[0]
    source = pack(site.source)
    first = release_of(site, source)
    assert first.path == f"/srv/blog/releases/{first.id}"
    assert first.static == f"/srv/blog/releases/{first.id}/static"
    assert release_of(site, source) == first
    home.group("all", SITES.replace("domains=", 'environment={"THEME": "dark"}, domains='))
    assert release_of(home.load().sites[0], source).id != first.id


def test_project_may_lie_in_a_folder(home: Home) -> None:
    """One value says where manage.py lies (heroku-buildpack-python#637)."""
    home.project("tree", at="src")
    home.group("all", SITES.replace('source="blog"', 'source="tree", project="src"'))
    site = home.load().sites[0]
    release = release_of(site, pack(site.source))
    assert release.project(site) == f"{release.path}/src/src"


def test_python_path_is_quoted_for_apache() -> None:
    """The venv stands between the standard library and Debian's packages."""
    assert python_path(['/a"b', "/src", "/src"], "/venv") == (
        "['/a\\\"b', '/src'] + [p for p in sys.path if 'dist-packages' not in p]"
        " + ['/venv'] + [p for p in sys.path if 'dist-packages' in p]"
    )


@pytest.mark.parametrize(
    ("said", "named"),
    [
        (
            "ERROR: Could not find a version that satisfies the requirement no-such==99 (from versions: none)\n"
            "ERROR: No matching distribution found for no-such==99",
            "no-such==99",
        ),
        (
            "ERROR: No matching distribution found for no-such>=2,<3 (from -r requirements.txt (line 2))",
            "no-such>=2,<3",
        ),
        (
            "ERROR: Invalid requirement: 'django=5' (from line 1 of requirements.txt)\n"
            "Hint: = is not a valid operator. Did you mean == ?",
            "django=5",
        ),
        (
            "ERROR: Invalid requirement: 'x @ git+file:///srv/x' (from line 5 of requirements.txt)",
            "x @ git+file:///srv/x",
        ),
        (
            "  error: subprocess-exited-with-error\n  ERROR: Failed building wheel for mysqlclient\n"
            "Failed to build mysqlclient",
            "mysqlclient",
        ),
        (
            "ERROR: Cannot install django==4.2 and django==5.2 because these package versions have"
            " conflicting dependencies.",
            "django==4.2 and django==5.2",
        ),
        (
            "ERROR: Hashes are required in --require-hashes mode, but they are missing from some"
            " requirements here.\n    django==5.2 --hash=sha256:aaaa\n",
            "django==5.2",
        ),
        (
            "ERROR: Can't verify hashes for these requirements because we don't have a way to hash"
            " version control repositories:\n    x@ git+https://a.test/x.git from git+https://a.test/x.git"
            " (from -r requirements.txt (line 5))",
            "x@ git+https://a.test/x.git",
        ),
        (
            "Collecting Django<5.3 (from -r requirements.txt (line 1))\nCollecting x@ git+https://a.test/x.git\n"
            "ERROR: Cannot find command 'git' - do you have 'git' installed and in your PATH?",
            "x@ git+https://a.test/x.git",
        ),
        ("something that pip has never said", ""),
    ],
)
def test_failing_requirement_is_named(said: str, named: str) -> None:
    """Of pip's words, the requirement that it stumbles over is named."""
    assert web_release.failing_requirement(said) == named


@pytest.mark.parametrize(
    ("requirements", "told"),
    [
        ("Django>=5.2,<5.3  # the long-lived one\n\npsycopg[binary]==3.2\nzope.testing\n", True),
        ('tomli==2.0; python_version < "3.11"\n', True),
        ("django==5.2 \\\n    --hash=sha256:aaaa \\\n    --hash=sha256:bbbb\n", True),
        ("# see https://a.test/why\nDjango\n", True),
        ("-r base.txt\nDjango\n", False),
        ("--index-url=https://a.test/simple\nDjango\n", False),
        ("x @ git+https://a.test/x.git\n", False),
        ("./vendored\n", False),
        (".\n", False),
        ("vendored-1.0-py3-none-any.whl\n", False),
        ("vendored-1.0.tar.gz\n", False),
        ("x==${VERSION}\n", False),
    ],
)
def test_packages_are_kept_for_a_file_that_says_all(requirements: str, told: bool) -> None:
    """A requirements file that names other files or addresses may mean something else next time."""
    kind = web_release.kind
    assert (kind(requirements) != "") == told
    assert not told or kind(requirements) != kind(f"# newer, please\n{requirements}")


def test_packages_of_before_there_was_a_builder_are_not_kept() -> None:
    """The account that serves had installed them, and could have changed them meanwhile."""
    assert web_release.kind("x==1.0\n").partition("\n")[0].endswith(", tierstack-build")


def test_passwords_in_requirements_are_not_shown() -> None:
    """pip repeats a line from git as it stands: what logs in there is hidden."""
    without = web_release.without_passwords
    assert without("x@ git+https://me:s3cret@a.test/x.git") == "x@ git+https://****@a.test/x.git"
    assert without("git+https://t0ken@a.test/x@v1") == "git+https://****@a.test/x@v1"
    assert without("git+ssh://git@a.test/x.git") == "git+ssh://git@a.test/x.git"


#: Of pip 23 on a host without compiler.
_UWSGI = """\
Collecting Django<5.3,>=5.2 (from -r requirements.txt (line 1))
Collecting uwsgi (from -r requirements.txt (line 2))
  Preparing metadata (pyproject.toml): finished with status 'done'
Collecting pycparser (from cffi->-r requirements.txt (line 3))
Building wheels for collected packages: uwsgi
  Building wheel for uwsgi (pyproject.toml): finished with status 'error'
  error: subprocess-exited-with-error

  × Building wheel for uwsgi (pyproject.toml) did not run successfully.
          raise Exception("you need a C compiler to build uWSGI")
      Exception: you need a C compiler to build uWSGI
  ERROR: Failed building wheel for uwsgi
Failed to build uwsgi
"""
_PSYCOPG = """\
Collecting psycopg[c]>=3.2 (from -r requirements/production.txt (line 3))
Collecting psycopg-c==3.3.9 (from psycopg[c]>=3.2->-r requirements/production.txt (line 3))
  Downloading psycopg_c-3.3.9.tar.gz (702 kB)
  Preparing metadata (pyproject.toml): finished with status 'error'
  error: subprocess-exited-with-error

  × Preparing metadata (pyproject.toml) did not run successfully.
      couldn't run 'pg_config' --includedir: [Errno 2] No such file or directory: 'pg_config'
error: metadata-generation-failed
"""
_HEADER = """\
Collecting pyfuse3 (from -r requirements.txt (line 1))
  error: subprocess-exited-with-error
      src/x.c:3:10: fatal error: fuse3/fuse.h: No such file or directory
  ERROR: Failed building wheel for pyfuse3
"""


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            _UWSGI,
            "requirements.txt, line 2: uwsgi cannot be built here, as pip says above: a C compiler is"
            ' missing; write packages=["build-essential", "python3-dev"] in the site, or require a'
            " version that comes built",
        ),
        (
            _PSYCOPG,
            "requirements/production.txt, line 3: psycopg-c cannot be built here, as pip says above:"
            ' pg_config is missing; write packages=["libpq-dev", "build-essential", "python3-dev"] in'
            " the site, or require a version that comes built",
        ),
        (
            _HEADER,
            "requirements.txt, line 1: pyfuse3 cannot be built here, as pip says above; the header"
            " fuse3/fuse.h is missing: find its Debian package; write what it needs as packages=[…] in"
            " the site, or require a version that comes built",
        ),
        ("ERROR: No matching distribution found for nothing==1", ""),
        ("error: subprocess-exited-with-error\n  × git clone --filter=blob:none did not run", ""),
    ],
    ids=["compiler", "pg_config", "header", "nothing to build", "git"],
)
def test_package_that_cannot_be_built_is_named(said: str, told: str) -> None:
    """The line of the user's file, what is missing, and the Debian packages that bring it."""
    assert web_release.build_trouble(said) == told


_PYTHON = (
    "ERROR: Ignored the following versions that require a different python version: 6.0 Requires-Python"
    " >=3.12; 6.0.1 Requires-Python >=3.12; 7.0 Requires-Python >=3.13\n"
    f"ERROR: Could not find a version that satisfies the requirement {{0}} (from versions: {'1.1, ' * 999})\n"
    "ERROR: No matching distribution found for {0}\n"
)


@pytest.mark.parametrize(
    ("requirement", "python"), [("Django==6.0.1", ">=3.12"), ("Django>=6", ">=3.13")]
)
def test_newer_python_is_named_on_hosts_too(requirement: str, python: str) -> None:
    """Where the requirements' text did not tell: one sentence, and not all versions there ever were."""
    said = web_release.not_installed(_PYTHON.format(requirement), "requirements.txt", "")
    here = "{}.{}".format(*sys.version_info)
    assert said == (
        f"{requirement} needs Python {python}, and this host has {here}; write a version that runs with"
        " it, and deploy again"
    )
    assert web_release.wanted_python("ERROR: No matching distribution found for x", "x") == ""


@pytest.mark.parametrize("requirement", ["no-such-thing==99", "no-such-thing>=8", "no-such-thing"])
def test_other_packages_that_need_newer_python_are_no_reason(requirement: str) -> None:
    """Pip names beside a package that is nowhere what it left out of Django, which it looked at before."""
    said = web_release.not_installed(_PYTHON.format(requirement), "requirements.txt", "")
    assert said == (
        f"{requirement} does not install, as pip says above; correct that line, and deploy again"
    )


def test_others_words_are_shown_as_words() -> None:
    """No line of kilobytes, and nothing that an operator's terminal would carry out."""
    assert len(web_release.shown(_PYTHON)) < 1500
    assert web_release.shown("a\x1b]0;title\x07\tb\n") == "a\ufffd]0;title\ufffd\tb"
