"""Inventories of a few lines, read without a connection."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from tests.certificate import make_certificate
from tierstack.inventory import CHECKOUT, load_cluster
from tierstack.model import Cluster, InventoryError

HOSTS = """
    balancer = [("lb1", {"address": "10.0.0.10", "memory_mb": 1024})]
    web = [
        ("web1", {"address": "10.0.0.11", "memory_mb": 1024}),
        ("web2", {"address": "10.0.0.12", "memory_mb": 1024}),
    ]
    db = [
        ("db1", {"address": "10.0.0.21", "memory_mb": 2048}),
        ("db2", {"address": "10.0.0.22", "memory_mb": 2048}),
    ]
    cache = [("cache1", {"address": "10.0.0.31", "memory_mb": 512})]
    media = [("media1", {"address": "10.0.0.41", "memory_mb": 512})]
"""

SITES = """
    sites = [
        dict(
            name="blog",
            source="blog",
            settings="blog.settings",
            domains=["www.example.com"],
        )
    ]
"""


#: What the cluster's database and cache need.
REQUIREMENTS = "Django>=5.2,<5.3\npsycopg[binary]\npymemcache\n"


class Home:
    """A user's directory with an inventory, group data and a project."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "group_data").mkdir()
        self.project("blog")
        self.inventory(HOSTS)
        self.group("all", SITES)

    def project(self, name: str, at: str = ".") -> None:
        """Make a directory that looks like a Django project."""
        root = self.path / name
        (root / at).mkdir(parents=True, exist_ok=True)
        (root / at / "manage.py").touch()
        (root / "requirements.txt").write_text(REQUIREMENTS, encoding="utf-8")

    def inventory(self, hosts: str, more: str = "") -> None:
        """Write the inventory."""
        text = "from tierstack.inventory import cluster\n" + dedent(hosts) + dedent(more)
        (self.path / "prod.py").write_text(text + "\ncluster(__file__)\n", encoding="utf-8")

    def group(self, name: str, text: str) -> None:
        """Write one file of group data."""
        (self.path / "group_data" / f"{name}.py").write_text(dedent(text), encoding="utf-8")

    def pair(self) -> None:
        """Put a certificate for the site, and its key, into www.pem."""
        make_certificate(self.path / "www.pem", ["www.example.com"])

    def load(self) -> Cluster:
        """Load the inventory."""
        return load_cluster(self.path / "prod.py")

    def refusal(self) -> list[str]:
        """Return the lines of the refusal, without the directory's name."""
        with pytest.raises(InventoryError) as caught:
            self.load()
        text = str(caught.value).replace(f"{self.path}/", "")
        return [line.strip() for line in text.splitlines()]


def pyinfra(*arguments: str | Path, checkout: Path = CHECKOUT) -> subprocess.CompletedProcess[str]:
    """Run pyinfra in a checkout, with that checkout's own code."""
    return subprocess.run(
        [Path(sys.executable).with_name("pyinfra"), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=checkout,
        env=os.environ | {"PYTHONPATH": str(checkout)},
        stdin=subprocess.DEVNULL,
    )


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A right inventory, to be made wrong."""
    return Home(tmp_path)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A small project, with what a developer's directory also holds."""
    root = tmp_path / "project"
    for name, content in {
        "manage.py": "#!/usr/bin/env python\n",
        "shop/settings.py": "DEBUG = True\n",
        "static/déjà vu.css": "a {}\n",
        ".env": "SECRET=1\n",
        "db.sqlite3": "data",
        "shop/__pycache__/settings.cpython-311.pyc": "",
        "node_modules/left-pad/index.js": "",
        ".venv/bin/python": "",
        "notes.pyc": "",
        "build/out.txt": "made",
    }.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    (root / "manage.py").chmod(0o755)
    (root / "latest").symlink_to("shop")
    return root


#: What of it makes the source.
OWN = ["build/out.txt", "latest", "manage.py", "shop/settings.py", "static/déjà vu.css"]
