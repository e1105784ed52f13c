"""What a project's own files say beforehand: requirements, Python, settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.model.conftest import REQUIREMENTS, SITES, Home
from tests.model.test_refusals import ONE
from tierstack.model import InventoryError
from tierstack.model.requirements import read_requirements
from tierstack.model.settings_text import last_assignments

NO_DRIVER = (
    "sites[0].requirements: requirements.txt has no driver for PostgreSQL, which is the cluster's"
    " database; add the line psycopg[binary]>=3.2"
)
NO_CLIENT = (
    "sites[0].requirements: requirements.txt has no client for memcached, which is the cluster's"
    " cache; add the line pymemcache>=4"
)
OTHER_ENGINE = (
    "DATABASES['default'] has the engine 'django.db.backends.sqlite3', and the cluster's database"
    " is PostgreSQL; write 'ENGINE': 'django.db.backends.postgresql' there, and the cluster adds"
    " the rest"
)
SQLITE = 'DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "db"}}\n'


def _write(home: Home, files: dict[str, str]) -> None:
    """Write files of the project."""
    for name, text in files.items():
        path = home.path / "blog" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Django\n", [NO_CLIENT, NO_DRIVER]),
        ("Django\npsycopg2-binary\n", [NO_CLIENT]),
        ("Django\npylibmc\n", [NO_DRIVER]),
        ("Django>=3.2,<4.2\npymemcache\n", [NO_DRIVER.replace("psycopg[binary]>=3.2", "psycopg2-binary>=2.9")]),
        ('Django\npymemcache\nPsycoPG ; python_version < "3"\n', [NO_DRIVER]),
        ('Django\npymemcache\nPsycoPG==3.2 ; python_version >= "3.8" \\\n  --hash=sha256:00\n', []),
        # What such a line brings is for pip to say.
        ("Django\nhttps://example.test/stack.tar.gz\n", []),
        ("-r ../elsewhere.txt\n", []),
        ("Django\nstack @ https://example.test/stack.whl\n", [NO_CLIENT, NO_DRIVER]),
    ],
)  # fmt: skip
def test_missing_packages_are_named(home: Home, text: str, said: list[str]) -> None:
    """Driver and client: what no line brings, all at once, each with the line to add."""
    _write(home, {"requirements.txt": text})
    if said:
        count = "1 error" if len(said) == 1 else f"{len(said)} errors"
        assert home.refusal() == [f"prod.py: {count}, no host was touched", *said]
    else:
        home.load()


def test_packages_that_are_built_on_hosts_are_named(home: Home) -> None:
    """A requirement without a built version: what Debian has to bring, together with what pip fetches by."""
    lines = "Django\nPsycoPG[C]>=3.2\npymemcache\nuWSGI\nx @ git+https://a.test/x.git\n"
    _write(home, {"requirements.txt": lines})
    write = 'write packages=["git", "build-essential", "python3-dev", "libpq-dev"]'
    assert home.refusal()[1:] == [
        "sites[0].packages: requirements.txt, line 2: PsycoPG comes as source, and is built on every"
        f" web host by build-essential, python3-dev and libpq-dev; {write}",
        "sites[0].packages: requirements.txt, line 4: uWSGI comes as source, and is built on every web"
        f" host by build-essential and python3-dev; {write}",
        f"sites[0].packages: requirements.txt, line 5: pip needs git on every web host for that; {write}",
    ]
    debian = 'packages=["git", "build-essential", "python3-dev", "libpq-dev"], domains'
    home.group("all", SITES.replace("domains", debian))
    home.load()


def test_included_files_are_read(home: Home) -> None:
    """The shape of cookiecutter-django: production.txt includes base.txt, which lies beside it."""
    home.group(
        "all", SITES.replace("domains", 'requirements="requirements/production.txt", domains')
    )
    files = {
        "requirements/production.txt": "-r base.txt\npsycopg==3.2.10\n",
        "requirements/base.txt": "Django==5.2.8\n--requirement=more.txt\n",
        "requirements/more.txt": "# ours\npymemcache==4.0.0  # the cluster's\n",
    }
    _write(home, files)
    home.load()


@pytest.mark.parametrize(
    ("project", "said"),
    [
        ('[project]\nname = "blog"\ndependencies = ["Django>=5.2"]\n', [NO_CLIENT, NO_DRIVER]),
        (
            '[project]\nname = "blog"\ndependencies = ["Django"]\n'
            '[project.optional-dependencies]\nprod = ["psycopg", "pymemcache"]\n',
            [],
        ),
        ('[project]\nname = "blog"\ndynamic = ["dependencies"]\n', []),
        (
            '[tool.poetry.dependencies]\npython = "^3.11"\nDjango = "^5.2"\npymemcache = "*"\n',
            [NO_DRIVER],
        ),
        ("not toml", []),
        ('[tool]\npoetry = "1"\n', []),
        (
            '[project]\nname = "blog"\ndependencies = ["Django"]\n[project.optional-dependencies]\n'
            'db = ["psycopg", "blog[prod]"]\nprod = ["blog[db]", "pymemcache"]\n',
            [],
        ),
    ],
    ids=["dependencies", "extra", "dynamic", "poetry", "broken", "no poetry", "of its own extra"],
)  # fmt: skip
def test_project_that_installs_itself_is_read(home: Home, project: str, said: list[str]) -> None:
    """Requirements of `.`: pyproject.toml says what they are, where it says so itself."""
    _write(home, {"requirements.txt": "-e .[prod]\n", "pyproject.toml": project})
    if said:
        assert home.refusal()[1:] == said
    else:
        home.load()


def test_directory_outside_of_the_source_is_refused(home: Home) -> None:
    """No web host would have it, and pip would say so at the first deploy."""
    (home.path / "shared").mkdir()
    (home.path / "blog" / "libs").mkdir()
    _write(
        home,
        {
            "requirements.txt": "../shared\n-e ./libs\n./lisb ; python_version > '3'\n"
            "../windows ; sys_platform == 'win32'\n"
        },
    )
    blog = home.path / "blog"
    said = " and a release holds nothing else; write a path that is, relative to it"
    with pytest.raises(InventoryError) as caught:
        home.load()
    assert [str(mistake) for mistake in caught.value.mistakes] == [
        f'sites[0].requirements: requirements.txt, line 1: "../shared" is not in {blog},{said}',
        "sites[0].requirements: requirements.txt, line 3: \"./lisb ; python_version > '3'\" is not in"
        f" {blog},{said}",
    ]


@pytest.mark.parametrize(
    ("text", "line", "requirement"),
    [
        ("Django==6.0.1", 1, "Django==6.0.1"),
        ("# newest\nDjango >= 6", 2, "Django>=6"),
        ("django~=6.0", 1, "django~=6.0"),
        ("Django\n-c pins.txt", 1, "Django"),
    ],
)
def test_newer_python_is_named(home: Home, text: str, line: int, requirement: str) -> None:
    """A Django that the hosts' Python does not run: one sentence, before any host is asked."""
    files = {"requirements.txt": f"{text}\npsycopg\npymemcache\n", "pins.txt": "Django==6.0.2\n"}
    _write(home, files)
    assert home.refusal() == [
        ONE,
        f"sites[0].requirements: requirements.txt, line {line}: {requirement} is Django 6.0 or later,"
        " which needs Python 3.12, and Debian 12 has 3.11; write Django>=5.2,<6.0",
    ]


@pytest.mark.parametrize(
    "text",
    ["Django", "Django>=4.2", "Django<7", "Django==5.2.*", "Django==5.2rc1", "Django==4.2.16+lts",
     "Django==1.11.29"],
)  # fmt: skip
def test_django_that_may_be_older_is_for_pip(home: Home, text: str) -> None:
    """Where an older one fits too, pip takes the newest that runs."""
    _write(home, {"requirements.txt": f"{text}\npsycopg\npymemcache\n"})
    home.load()


def test_python_of_the_project_is_read(home: Home) -> None:
    """A project that is installed itself says which Python it needs."""
    project = '[project]\nname = "blog"\nrequires-python = ">=3.12"\ndependencies = []\n'
    _write(home, {"requirements.txt": REQUIREMENTS + ".\n", "pyproject.toml": project})
    assert home.refusal() == [
        ONE,
        'sites[0].requirements: pyproject.toml: requires-python = ">=3.12", and Debian 12 has 3.11;'
        ' write what runs with that, e.g. ">=3.11"',
    ]


@pytest.mark.parametrize(
    ("settings", "where"),
    [
        ({"blog/settings.py": f"DEBUG = False\n{SQLITE}"}, "blog/settings.py, line 2"),
        (
            {
                "blog/settings.py": "from blog.base import *\nDEBUG = False\n",
                "blog/base.py": SQLITE,
            },
            "blog/base.py, line 1",
        ),
        (
            # As `wagtail start` makes it; local.py is not there.
            {
                "blog/settings/__init__.py": "from .base import *\n\ntry:\n"
                "    from .local import *\nexcept ImportError:\n    pass\n",
                "blog/settings/base.py": f"import os\n\n{SQLITE}",
            },
            "blog/settings/base.py, line 3",
        ),
    ],
    ids=["plain", "base", "wagtail"],
)
def test_other_database_is_named(home: Home, settings: dict[str, str], where: str) -> None:
    """An engine that the settings' text gives in so many words, wherever it stands."""
    _write(home, {"blog/__init__.py": "", **settings})
    assert home.refusal() == [ONE, f"sites[0].settings: {where}: {OTHER_ENGINE}"]


def test_what_needs_https_is_named(home: Home) -> None:
    """Where nothing serves it, as far as the settings' text tells; with a proxy in front it may be."""
    text = "SECURE_SSL_REDIRECT = True\nSESSION_COOKIE_SECURE = True\nCSRF_COOKIE_SECURE = False\n"
    _write(home, {"blog/__init__.py": "", "blog/settings.py": text})
    home.load()
    home.group("balancer", "https = False")
    assert home.refusal()[1:] == [
        f"sites[0].settings: blog/settings.py, line {line}: {name} is True, and balancer.https is"
        f" False, so {outcome}; write https=True in balancer, or the proxy in front that ends TLS"
        " as trusted_proxies, or False there"
        for line, name, outcome in (
            (1, "SECURE_SSL_REDIRECT", "every page leads to a port that nobody serves"),
            (2, "SESSION_COOKIE_SECURE", "no log-in lasts"),
        )
    ]
    home.group("balancer", "https = False\ntrusted_proxies = ['192.0.2.7']")
    home.load()


@pytest.mark.parametrize(
    "text",
    [
        SQLITE + 'import os\nif os.environ.get("DATABASE_URL"):\n    DATABASES = {}\n',
        SQLITE + 'DATABASES["default"] = env.db()\n',
        SQLITE + "DATABASES.update(ours)\n",
        SQLITE + "import django_heroku\ndjango_heroku.settings(locals())\n",
        SQLITE + "settings = dynaconf.DjangoDynaconf(__name__)\n",
        SQLITE + "from somewhere import *\n",
        SQLITE + "from .databases import DATABASES\n",
        SQLITE
        + "try:\n    from .settings import LOCAL as DATABASES\nexcept ImportError:\n    pass\n",
        SQLITE + 'from split_settings.tools import include\n\ninclude("database.py")\n',
        'DATABASES = {"default": {"ENGINE": "psqlextra.backend"}}\n',
        SQLITE.replace('"django.db.backends.sqlite3"', "ENGINE"),
        'DATABASES = {"default": dj_database_url.config()}\n',
        'DATABASES = {"default": {"ENGINE": "django.contrib.gis.db.backends.postgis"}}\n',
    ],
)
def test_database_that_is_decided_later_is_for_the_hosts(home: Home, text: str) -> None:
    """What only Python can tell is not judged by the text."""
    _write(home, {"blog/__init__.py": "", "blog/settings.py": text})
    home.load()


def test_settings_for_development_are_named(home: Home) -> None:
    """DEBUG in so many words, unless something decides it later."""
    _write(home, {"blog/__init__.py": "", "blog/settings.py": "\nDEBUG = True\n"})
    assert home.refusal() == [
        ONE,
        "sites[0].settings: blog/settings.py, line 2: DEBUG is True, so the site takes itself for"
        " one in development; write DEBUG = False there, or name the module for production here",
    ]
    for text in ("DEBUG = 0", "DEBUG = True\nDEBUG = env.bool('DEBUG')"):
        _write(home, {"blog/settings.py": text})
        home.load()


def test_logger_leaves_the_database_as_it_is(tmp_path: Path) -> None:
    """Handing `__name__` to a logger changes no setting."""
    (tmp_path / "conf.py").write_text(SQLITE + "log = logging.getLogger(__name__)\n", "utf-8")
    assert last_assignments(tmp_path, [tmp_path], "conf")["DATABASES"].where == "conf.py, line 1"


def test_settings_module_that_is_not_there_is_named(home: Home) -> None:
    """A slip in the module's name is told with the one that is there."""
    names = ("__init__", "settings/production", "settings/base")
    _write(home, {f"blog/{name}.py": "" for name in names})
    home.group("all", SITES.replace('"blog.settings"', '"blog.settings.prodution"'))
    assert home.refusal() == [
        ONE,
        'sites[0].settings: no module "blog.settings.prodution" in blog; did you mean'
        " blog.settings.production?",
    ]


def test_constraints_install_nothing(tmp_path: Path) -> None:
    """A constraints file says which version, and brings no package."""
    (tmp_path / "requirements.txt").write_text("Django\n--constraint pins.txt\n", encoding="utf-8")
    (tmp_path / "pins.txt").write_text("psycopg==3.2.1\n", encoding="utf-8")
    found = read_requirements(tmp_path, "requirements.txt")
    assert (found.of("psycopg"), len(found.constraints), found.opaque) == ([], 1, False)
