"""One deployed cluster for all stories; every story leaves it as healthy as it found it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.needs import lab_directory, need_root
from tests.operator import Operator

# A lab of the tests' own, so that `make test` and `make demo` do not meet.
os.environ.setdefault("TIERSTACK_LAB_DIR", lab_directory("test-lab"))
os.environ.setdefault("TIERSTACK_LAB_SUBNET", "10.77.22.0/24")

SETTINGS = "example/src/mysite/settings.py"

#: What Django 5.2 takes of it at least.
OLDER_ASGIREF = "3.8.1"

#: Signs that have broken other tools' connection strings, password files and settings.
SITE_PASSWORD = "p%40a's$\"@:/\\#é"
REPLICATION_PASSWORD = "r%25:e\\p'l$@ \"#é"


@pytest.fixture(scope="package")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    """Somebody whose cluster has just been deployed, with nasty passwords from the first day."""
    need_root()
    somebody = Operator(tmp_path_factory.mktemp("ops"))
    # A second cache host: the stories need one that may die.
    somebody.edit('lab_host("cache1", 31),', 'lab_host("cache1", 31),\n    lab_host("cache2", 32),')
    _move_into_subfolder(somebody)
    secrets = somebody.inventory.with_suffix(".secrets.toml")
    secrets.touch(mode=0o600)
    secrets.write_text(
        f"[sites.example]\ndatabase_password = {_toml(SITE_PASSWORD)}\n"
        f"[cluster]\nreplication_password = {_toml(REPLICATION_PASSWORD)}\n",
        encoding="utf-8",
    )
    with somebody.fresh_hosts():
        with older_index(somebody, "web1"):
            somebody.deploy_well()
        yield somebody


@contextmanager
def older_index(somebody: Operator, node: str) -> Iterator[None]:
    """One web host asks its package index before there is something newer, the others after it."""
    somebody.ask(node, "cp /etc/pip.conf /etc/pip.conf.good")
    somebody.ask(node, f"echo 'asgiref=={OLDER_ASGIREF}' > /etc/pip-older.txt")
    somebody.ask(
        node, "printf '\\n[install]\\nconstraint = /etc/pip-older.txt\\n' >> /etc/pip.conf"
    )
    try:
        yield
    finally:
        somebody.ask(node, "mv /etc/pip.conf.good /etc/pip.conf")


def asgiref(somebody: Operator, node: str) -> str:
    """Return the version of a package in the release that a node serves."""
    python = "/srv/example/current/venv/bin/python"
    return somebody.ask(
        node, f"runuser -u example -- {python} -c 'import asgiref; print(asgiref.__version__)'"
    )


def _move_into_subfolder(somebody: Operator) -> None:
    """Lay the project out as heroku-buildpack-python#637: src/manage.py that imports from the root."""
    root = somebody.home / "example"
    (root / "src").mkdir()
    for path in list(root.iterdir()):
        if path.name not in ("requirements.txt", "src"):
            path.rename(root / "src" / path.name)
    (root / "shared").mkdir()
    (root / "shared" / "conf.py").write_text('GREETING = "hello"\n', encoding="utf-8")
    somebody.edit("import os\n", "import os\n\nfrom shared.conf import GREETING\n", SETTINGS)
    somebody.edit(
        'source="example",', 'source="example",\n        project="src",', "group_data/all.py"
    )
    # manage.py is for development, whatever the environment says; and so is its database.
    somebody.edit(
        'os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mysite.settings")',
        'os.environ["DJANGO_SETTINGS_MODULE"] = "mysite.development"',
        "example/src/manage.py",
    )
    (root / "src" / "mysite" / "development.py").write_text(
        "from mysite.settings import *\n\n"
        'DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}\n',
        encoding="utf-8",
    )


def _toml(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
