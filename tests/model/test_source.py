"""What of a project goes to the hosts, what stays here, and what is said of it."""

from __future__ import annotations

import gzip
import os
import subprocess
from pathlib import Path

import pytest

from tests.model.conftest import OWN, SITES, Home
from tierstack.model import TierstackError
from tierstack.model.source import check_sources, contents_of, sentences

need_root = pytest.mark.skipif(os.getuid() != 0, reason="gives files to another account")


def _git(root: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.com"]
    command = ["git", "-C", str(root), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_own_files_make_the_source(project: Path) -> None:
    """Caches, virtual environments, a developer's database and secrets stay out."""
    assert list(contents_of(project).files) == OWN


def test_secrets_of_an_inventory_stay_here(project: Path) -> None:
    """An inventory that lies in the project: its secrets never travel with a release."""
    before = contents_of(project).files
    (project / "ops").mkdir()
    for name in ("prod.secrets.toml", ".prod.secrets.toml.lock", ".prod.secrets.toml.x1y2"):
        (project / "ops" / name).touch()
    assert contents_of(project).files == before


def test_git_says_what_belongs_to_it(project: Path) -> None:
    """In a work tree, what git ignores stays out, and what is not committed yet is in."""
    _git(project, "init", "-q")
    (project / ".gitignore").write_text("build/\n", encoding="utf-8")
    _git(project, "add", "manage.py", "shop/settings.py")
    _git(project, "commit", "-q", "-m", "first")
    assert list(contents_of(project).files) == [".gitignore", *OWN[1:]]
    (project / "shop" / "settings.py").unlink()
    assert "shop/settings.py" not in contents_of(project).files


def test_hook_of_another_repository_changes_nothing(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deploy out of a post-receive hook: git's variables there are those of the repository."""
    _git(project, "init", "-q")
    (project / ".gitignore").write_text("made/\n", encoding="utf-8")
    (project / "made").mkdir()
    (project / "made" / "data.txt").touch()
    before = contents_of(project)
    assert before.in_git
    assert "made/data.txt" not in before.files
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "elsewhere"))
    assert contents_of(project) == before


def test_project_that_git_ignores_is_a_source_too(project: Path) -> None:
    """A directory of operations may well ignore the projects in it."""
    _git(project.parent, "init", "-q")
    (project.parent / ".gitignore").write_text("project/\n", encoding="utf-8")
    assert list(contents_of(project).files) == OWN


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (".env.production", "SECRET_KEY=1\n"),
        ("prod.env", "SECRET_KEY=1\n"),
        (".envs/.production/.django", "SECRET_KEY=1\n"),
        ("ops/.aws/credentials", "[default]\n"),
        ("id_rsa", "?"),
        ("tls/site.key", "?"),
        ("tls/both.pem", "-----BEGIN CERTIFICATE-----\n-----BEGIN RSA PRIVATE KEY-----\n"),
        ("google.json", '{"private_key": "-----BEGIN PRIVATE KEY-----'),
        ("backup.dump", "?"),
        ("before.sql", "--\n-- PostgreSQL database dump\n--\n"),
        ("old.sql", "-- MySQL dump 10.13\n"),
        ("monday.bak", "PGDMP\x01\x0e"),
        ("data.sql.gz", "?"),
        ("local.db", "SQLite format 3\0"),
    ],
)
def test_secrets_and_dumps_stay_here(project: Path, name: str, content: str) -> None:
    """By name or by what is in it, also where git tracks it; `include` takes one along."""
    path = project / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    for _ in range(2):
        found = contents_of(project)
        assert name in found.left_out
        assert name not in found.files
        assert name in contents_of(project, [name]).files
        _git(project, "init", "-q")
        _git(project, "add", "-f", name)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (".env.example", "SECRET_KEY=\n"),
        ("shop/sql/view.sql", "CREATE VIEW x AS SELECT 1;\n"),
        ("ca.pem", "-----BEGIN CERTIFICATE-----\n"),
        ("shop/tests.py", 'KEY = "-----BEGIN PRIVATE KEY-----"\n'),
        ("shop/keys.py", ""),
        ("id_rsa.pub", "ssh-rsa AAAA"),
    ],
)
def test_what_only_looks_like_a_secret_travels(project: Path, name: str, content: str) -> None:
    """Examples, SQL of a migration, certificates, code."""
    path = project / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    assert name in contents_of(project).files


def test_run_says_what_a_release_holds(home: Home) -> None:
    """The commit, what is not in it, and what stays here."""
    site = home.load().sites[0]
    blog = home.path / "blog"
    (blog / ".env.production").write_text("SECRET_KEY=1\n", encoding="utf-8")
    assert sentences(site, contents_of(blog)) == [
        f"A release of blog holds 2 files of {blog}, which git does not know.",
        "Left out of it, as secrets or data by name or content: .env.production. What the site needs"
        ' of it, include=[".env.production"] in the site takes along.',
    ]
    (blog / ".env.production").unlink()
    _git(blog, "init", "-q")
    assert sentences(site, contents_of(blog)) == ["A release of blog holds what has no commit yet."]
    _git(blog, "add", ".")
    _git(blog, "commit", "-q", "-m", "first")
    commit = _git(blog, "rev-parse", "--short", "HEAD").strip()
    assert sentences(site, contents_of(blog)) == [f"A release of blog holds commit {commit}."]
    (blog / "manage.py").write_text("# changed\n", encoding="utf-8")
    assert sentences(site, contents_of(blog)) == [
        f"A release of blog holds commit {commit} and 1 file that is not committed (manage.py)."
    ]
    for number in range(7):
        (blog / f"new {number}.py").touch()
    assert sentences(site, contents_of(blog)) == [
        f"A release of blog holds commit {commit} and 8 files that are not committed (manage.py,"
        " new 0.py, new 1.py, new 2.py, new 3.py, new 4.py and 2 more)."
    ]


def test_ignored_files_that_a_site_looks_for_are_named(home: Home) -> None:
    """Compiled translations and what is built for browsers; not what collectstatic has collected."""
    blog = home.path / "blog"
    for name in (
        "locale/de/LC_MESSAGES/django.mo", "locale/fr/LC_MESSAGES/django.mo",
        "shop/static/dist/app.js", "shop/static/dist/deep/app.css", "shop/static/dist/app.pyc",
        "frontend/dist/app.js", "staticfiles/staticfiles.json", "staticfiles/dist/app.js",
        "node_modules/left-pad/dist/index.js", "htmlcov/index.html",
    ):  # fmt: skip
        path = blog / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (blog / ".gitignore").write_text(
        "*.mo\ndist/\nstaticfiles/\nnode_modules/\nhtmlcov/\n", encoding="utf-8"
    )
    _git(blog, "init", "-q")
    _git(blog, "add", ".")
    patterns = ["frontend/dist/**", "locale/*/LC_MESSAGES/*.mo", "shop/static/dist/**"]
    said = sentences(home.load().sites[0], contents_of(blog))[-1]
    assert said == (
        "Git ignores what the site may look for, and a release goes without it: frontend/dist/** (1),"
        " locale/*/LC_MESSAGES/*.mo (2), shop/static/dist/** (2). To take it along, write"
        ' include=["frontend/dist/**", "locale/*/LC_MESSAGES/*.mo", "shop/static/dist/**"] in the'
        " site."
    )
    found = contents_of(blog, patterns)
    assert found.ignored == ()
    assert {"frontend/dist/app.js", "locale/fr/LC_MESSAGES/django.mo"} <= set(found.files)
    assert "shop/static/dist/deep/app.css" in found.files


def test_pattern_that_fits_nothing_is_refused(home: Home) -> None:
    """A slip of the pen would be a release that lacks something."""
    home.group("all", SITES.replace("domains=", 'include=["locale/*.mo"], domains='))
    cluster = home.load()
    assert [str(mistake) for mistake in check_sources(cluster)] == [
        f'sites[0].include: "locale/*.mo" fits no file in {home.path}/blog; correct it, or take it out'
    ]


@need_root
def test_git_runs_nothing_of_another_accounts_tree(home: Home, tmp_path: Path) -> None:
    """Its configuration names a program, which git would run to learn what has changed."""
    blog, proof = home.path / "blog", tmp_path / "proof"
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\ntouch {proof}\n", encoding="utf-8")
    program.chmod(0o755)
    _git(blog, "init", "-q")
    _git(blog, "config", "core.fsmonitor", str(program))
    cluster = home.load()
    assert check_sources(cluster) == []
    os.chown(blog, 65534, 65534)
    os.chown(blog / ".git", 65534, 65534)
    assert [str(mistake) for mistake in check_sources(cluster)] == [
        f"sites[0].source: {blog} belongs to another account, and git would run what that account's"
        " configuration names; if that is you, type: git config --global --add safe.directory"
        f" {blog}"
    ]
    assert not proof.exists()


def test_tree_that_git_cannot_read_is_not_sent_as_a_whole(project: Path) -> None:
    """What git ignores would be among it."""
    _git(project, "init", "-q")
    (project / ".git" / "index").write_bytes(gzip.compress(b"no index"))
    with pytest.raises(TierstackError) as caught:
        contents_of(project)
    assert str(caught.value).startswith(f"git does not say what belongs to {project} (fatal: ")
