"""A user's own directory: made by a command, told what is missing, and nothing comes from elsewhere."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.model.conftest import REQUIREMENTS, SITES, Home, pyinfra
from tierstack.cli import main
from tierstack.inventory import CHECKOUT, load_cluster
from tierstack.new import find_project

HOSTS_LEFT = [
    f"{tier}[{index}].address: 192.0.2.{number} is an example's address, which no host has;"
    f" write the address of {name}"
    for tier, index, number, name in (
        ("balancer", 0, 10, "lb1"),
        ("cache", 0, 31, "cache1"),
        ("db", 0, 21, "db1"),
        ("db", 1, 22, "db2"),
        ("media", 0, 41, "media1"),
    )
]
WEB_LEFT = [
    f"web[{index}].address: 192.0.2.1{index + 1} is an example's address, which no host has;"
    f" write the address of web{index + 1}"
    for index in (0, 1)
]


def test_directory_is_made_and_says_what_is_left(tmp_path: Path) -> None:
    """Without a project: every value that only the user knows is named, and what to type next."""
    ops = tmp_path / "ops"
    status, said = _new(ops)
    assert status == 0
    assert said.splitlines() == [
        f"wrote {ops}/prod.py",
        f"wrote {ops}/group_data/all.py",
        f"wrote {ops}/.gitignore",
        f"wrote {ops}/README.md",
        "",
        "Still to be written there:",
        *(
            f"  {line}"
            for line in [
                *HOSTS_LEFT,
                "sites[0].domains: is empty; write at least one",
                'sites[0].name: is empty; write a short one, e.g. "shop"',
                'sites[0].settings: "" is not a Python module; write e.g. "mysite.settings"',
                'sites[0].source: is empty; write where your project lies, e.g. "/home/you/shop"',
                *WEB_LEFT,
            ]
        ),
        "",
        f"Then, in {CHECKOUT}:",
        f"  tierstack check {ops}/prod.py",
        f"  pyinfra {ops}/prod.py deploy.py",
    ]


def test_project_fills_its_lines(tmp_path: Path) -> None:
    """With a project, only addresses and domains are left; then the inventory is right."""
    shop = _project(tmp_path / "My Shop_2", "src", 'os.environ["{0}"] = "shop.conf.prod"')
    (shop / "requirements").mkdir()
    (shop / "requirements" / "production.txt").write_text(REQUIREMENTS, encoding="utf-8")
    ops = tmp_path / "ops"
    status, said = _new(ops, "--source", str(shop))
    assert status == 0
    left = [line.strip() for line in said.splitlines() if line.startswith("  ")]
    assert left[:-2] == [*HOSTS_LEFT, "sites[0].domains: is empty; write at least one", *WEB_LEFT]
    _replace(ops / "prod.py", '{"address": "192.0.2.', '{"address": "10.0.0.')
    _replace(ops / "group_data" / "all.py", "domains=[]", 'domains=["www.example.com"]')
    site = load_cluster(ops / "prod.py").sites[0].settings
    assert (site.name, site.source, site.project, site.settings, site.requirements) == (
        "my-shop-2",
        str(shop),
        "src",
        "shop.conf.prod",
        "requirements/production.txt",
    )


def test_working_directory_is_the_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Typed inside of a Django project, the command takes it."""
    shop = _project(tmp_path / "shop", ".", 'os.environ.setdefault("{0}", "shop.settings")')
    monkeypatch.chdir(shop)
    assert _new(tmp_path / "ops")[0] == 0
    text = (tmp_path / "ops" / "group_data" / "all.py").read_text(encoding="utf-8")
    assert f'source="{shop}"' in text
    assert 'settings="shop.settings"' in text
    assert 'requirements=""' in text, "it has none: the check asks for it"


def test_inventory_is_the_checkouts_own(tmp_path: Path) -> None:
    """What users start from is `inventories/prod.py`, with their own path in its first lines."""
    _new(tmp_path)
    ours = (CHECKOUT / "inventories" / "prod.py").read_text(encoding="utf-8")
    theirs = (tmp_path / "prod.py").read_text(encoding="utf-8")
    assert theirs == ours.replace("inventories/prod.py", f"{tmp_path}/prod.py")
    assert theirs != ours


def test_example_is_a_project() -> None:
    """The site that the documents deploy is read right."""
    project = find_project(CHECKOUT / "example")
    assert (project.name, project.project, project.settings, project.requirements) == (
        "example",
        ".",
        "mysite.settings",
        "requirements.txt",
    )


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    """A file that is there stops the command before it writes any."""
    (tmp_path / "README.md").write_text("mine\n", encoding="utf-8")
    (tmp_path / "prod.py").symlink_to("elsewhere.py")
    assert _new(tmp_path) == (
        2,
        f"{tmp_path}/prod.py, {tmp_path}/README.md: already there, nothing was written;"
        " choose another directory\n",
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "prod.py"]
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == "mine\n"


def test_directory_below_a_file_is_refused(tmp_path: Path) -> None:
    """A path that cannot be a directory is told in a sentence."""
    (tmp_path / "ops").touch()
    assert _new(tmp_path / "ops") == (
        2,
        f"{tmp_path}/ops cannot be written: File exists; choose another directory\n",
    )


def test_directory_in_the_project_is_refused(tmp_path: Path) -> None:
    """All of a project goes to the web hosts; the inventory is not to."""
    shop = _project(tmp_path / "shop", ".", "")
    assert _new(shop / "ops", "--source", str(shop)) == (
        2,
        f"{shop}/ops lies in {shop}, and all of that goes to every web host;"
        " choose a directory outside of it\n",
    )
    assert not (shop / "ops").exists()


def test_no_project_is_told(tmp_path: Path) -> None:
    """A directory without manage.py, or with two, is no project; nothing is written."""
    assert _new(tmp_path / "ops", "--source", str(tmp_path)) == (
        2,
        f"{tmp_path}: no manage.py there or in a folder of it; write --source and the directory of"
        " your Django project\n",
    )
    for name in ("blog", "shop"):
        _project(tmp_path / name, ".", "")
    assert _new(tmp_path / "ops", "--source", str(tmp_path)) == (
        2,
        f"{tmp_path} holds 2 projects; write one of them, e.g. --source {tmp_path}/blog\n",
    )
    assert not (tmp_path / "ops").exists()


@pytest.mark.parametrize(
    ("files", "settings", "why"),
    [
        # As `django-admin startproject` makes it.
        (
            {"manage.py": "shop.settings", "shop/wsgi.py": "shop.settings", "shop/settings.py": ""},
            "shop.settings",
            "shop/wsgi.py names it",
        ),
        # As cookiecutter-django makes it.
        (
            {
                "manage.py": "config.settings.local",
                "config/wsgi.py": "config.settings.production",
                "config/settings/local.py": "",
                "config/settings/production.py": "",
            },
            "config.settings.production",
            "config/wsgi.py names it; manage.py names config.settings.local",
        ),
        # As `wagtail start` makes it.
        (
            {
                "manage.py": "shop.settings.dev",
                "shop/wsgi.py": "shop.settings.dev",
                "shop/settings/dev.py": "",
                "shop/settings/production.py": "",
            },
            "shop.settings.production",
            "it lies beside shop.settings.dev, which shop/wsgi.py names;"
            " manage.py names shop.settings.dev",
        ),
        ({"manage.py": "shop.settings.dev"}, "shop.settings.dev", "manage.py names it"),
    ],
    ids=["startproject", "cookiecutter", "wagtail", "manage"],
)
def test_settings_for_visitors_are_taken(
    tmp_path: Path, files: dict[str, str], settings: str, why: str
) -> None:
    """What wsgi.py names, then the module for production; and the file says what was seen."""
    shop = tmp_path / "shop"
    for name, module in files.items():
        (shop / name).parent.mkdir(parents=True, exist_ok=True)
        line = f'import os\nos.environ.setdefault("DJANGO_SETTINGS_MODULE", "{module}")\n'
        (shop / name).write_text(line if module else "", encoding="utf-8")
    project = find_project(shop)
    assert (project.settings, project.why) == (settings, why)
    _new(tmp_path / "ops", "--source", str(shop))
    text = (tmp_path / "ops" / "group_data" / "all.py").read_text(encoding="utf-8")
    assert f"        # The settings module for production: {why}.\n" in text


def test_all_that_is_missing_comes_at_once(tmp_path: Path) -> None:
    """A fresh `startproject`: hosts, names, database, cache and their packages, in one list."""
    shop = _project(tmp_path / "shop", ".", 'os.environ.setdefault("{0}", "shop.settings")')
    (shop / "requirements.txt").write_text("Django~=5.2\n", encoding="utf-8")
    (shop / "shop").mkdir()
    settings = 'DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "db"}}\n'
    (shop / "shop" / "settings.py").write_text(f"DEBUG = True\n\n{settings}", encoding="utf-8")
    status, said = _new(tmp_path / "ops", "--source", str(shop))
    assert status == 0
    assert [line.strip() for line in said.splitlines() if line.startswith("  ")][:-2] == [
        *HOSTS_LEFT,
        "sites[0].domains: is empty; write at least one",
        "sites[0].requirements: requirements.txt has no client for memcached, which is the"
        " cluster's cache; add the line pymemcache>=4",
        "sites[0].requirements: requirements.txt has no driver for PostgreSQL, which is the"
        " cluster's database; add the line psycopg[binary]>=3.2",
        "sites[0].settings: shop/settings.py, line 1: DEBUG is True, so the site takes itself for one"
        " in development; write DEBUG = False there, or name the module for production here",
        "sites[0].settings: shop/settings.py, line 3: DATABASES['default'] has the engine"
        " 'django.db.backends.sqlite3', and the cluster's database is PostgreSQL; write 'ENGINE':"
        " 'django.db.backends.postgresql' there, and the cluster adds the rest",
        *WEB_LEFT,
    ]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the checkout whose own group data is full of canaries."""
    copy = tmp_path / "checkout"
    ignored = shutil.ignore_patterns(".*", "__pycache__", "build", "*.egg-info")
    shutil.copytree(CHECKOUT, copy, ignore=ignored)
    canaries = (
        'ssh_user = "canary"\nssh_hostname = "canary"\n_sudo_user = "canary"\nname = "canary"\n'
    )
    for name in ("all", "web", "prod"):
        file = copy / "group_data" / f"{name}.py"
        before = file.read_text(encoding="utf-8") if file.exists() else ""
        file.write_text(before + canaries, encoding="utf-8")
    return copy


@pytest.fixture
def elsewhere(tmp_path: Path) -> Home:
    """A right inventory in a directory beside the checkout's copy."""
    (tmp_path / "home").mkdir()
    return Home(tmp_path / "home")


def test_nothing_of_the_checkout_reaches_a_user(checkout: Path, elsewhere: Home) -> None:
    """What pyinfra knows of the user's hosts is what the user wrote, and no line of the checkout's."""
    elsewhere.group("all", SITES + '\n    ssh_key = "all-key"\n    _sudo = True')
    elsewhere.group("db", 'ssh_key = "db-key"')
    done = pyinfra(elsewhere.path / "prod.py", "debug-inventory", "--json", checkout=checkout)
    assert done.returncode == 0, done.stderr
    assert "canary" not in done.stdout
    assert "mysite" not in done.stdout
    for mine in ("all-key", "db-key", "_sudo", "www.example.com"):
        assert mine in done.stdout


def test_empty_group_data_means_no_site(checkout: Path, elsewhere: Home) -> None:
    """With nothing in the user's group data, the example is not served instead."""
    (elsewhere.path / "group_data" / "all.py").unlink()
    for empty in (True, False):
        if not empty:
            (elsewhere.path / "group_data").rmdir()
        done = pyinfra(elsewhere.path / "prod.py", "deploy.py", "-y", checkout=checkout)
        assert done.returncode == 2
        assert done.stderr.endswith(
            "prod.py: 1 error, no host was touched\n"
            "  sites: no site; write in group_data/all.py:"
            ' sites = [dict(name="mysite", source="mysite", settings="mysite.settings",'
            ' domains=["www.example.com"])]\n'
        )


def _new(directory: Path, *options: str) -> tuple[int, str]:
    """Run `tierstack new`; return its exit status and all that it says."""
    done = CliRunner().invoke(main, ["new", str(directory), *options])
    return done.exit_code, done.output


def _project(root: Path, at: str, line: str) -> Path:
    folder = root / at
    folder.mkdir(parents=True)
    text = "import os\n" + line.format("DJANGO_SETTINGS_MODULE") + os.linesep
    (folder / "manage.py").write_text(text, encoding="utf-8")
    return root


def _replace(file: Path, before: str, after: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert before in text
    file.write_text(text.replace(before, after), encoding="utf-8")
