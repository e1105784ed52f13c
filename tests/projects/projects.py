"""Projects of other people's shapes, each made as its own generator or template makes it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import dedent

from tests.operator import ROOT

#: Where the generators are, which need Django and Wagtail themselves.
GENERATORS = ROOT / "build" / "generators"

#: What is installed there.
GENERATED_BY = ("Django>=5.2,<5.3", "wagtail>=7.2,<7.3")

NO_CLIENT = "has no client for memcached, which is the cluster's cache; add the line pymemcache>=4"
NO_DRIVER = "has no driver for PostgreSQL, which is the cluster's database; add the line psycopg[binary]>=3.2"
NOT_POSTGRESQL = (
    "DATABASES['default'] has the engine 'django.db.backends.sqlite3', and the cluster's database is"
    " PostgreSQL; write 'ENGINE': 'django.db.backends.postgresql' there, and the cluster adds the rest"
)
IN_DEVELOPMENT = (
    "DEBUG is True, so the site takes itself for one in development; write DEBUG = False there, or"
    " name the module for production here"
)


def generators() -> None:
    """Make a venv with the generators; one that is there stays."""
    if (GENERATORS / "ready").exists():
        return
    GENERATORS.parent.mkdir(exist_ok=True)
    subprocess.run(["python3", "-m", "venv", GENERATORS], check=True)
    pip = [str(GENERATORS / "bin" / "pip"), "install", "-qq", "--disable-pip-version-check"]
    subprocess.run([*pip, *GENERATED_BY], check=True)
    (GENERATORS / "ready").touch()


@dataclass
class Project:
    """
    A project of somebody's, and what `tierstack check` asks of it.

    Args:
        name: the directory's.
        make: fills the directory.
        asked: what is asked for of the project, all at once, in the order that it is printed.
        edit: does what was asked for: at most two files are changed.
        changes: lines of the site in group data, for what was asked for there.
        front: status of the front page.
    """

    name: str
    make: Callable[[Path], None]
    asked: list[str]
    edit: Callable[[Path], None]
    changes: list[str] = field(default_factory=list)
    front: int = 200

    def __repr__(self) -> str:
        return self.name


def _write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text).lstrip("\n"), encoding="utf-8")


def _replace(file: Path, *changes: tuple[str, str]) -> None:
    text = file.read_text(encoding="utf-8")
    for before, after in changes:
        assert before in text, f"{before!r} is not in {file}"
        text = text.replace(before, after, 1)
    file.write_text(text, encoding="utf-8")


def _append(file: Path, text: str) -> None:
    before = file.read_text(encoding="utf-8")
    file.write_text(before + text, encoding="utf-8")


def _startproject(root: Path) -> None:
    root.mkdir()
    program = GENERATORS / "bin" / "django-admin"
    subprocess.run([program, "startproject", root.name, root], check=True)
    _write(root, {"requirements.txt": "Django>=5.2,<5.3\n"})


def _for_postgresql(root: Path) -> None:
    _replace(
        root / root.name / "settings.py",
        ("DEBUG = True", "DEBUG = False"),
        ("django.db.backends.sqlite3", "django.db.backends.postgresql"),
    )
    _append(root / "requirements.txt", "psycopg[binary]>=3.2\npymemcache>=4\n")


def _wagtail(root: Path) -> None:
    root.mkdir()
    subprocess.run([GENERATORS / "bin" / "wagtail", "start", root.name, root], check=True)


def _wagtail_for_postgresql(root: Path) -> None:
    settings = root / root.name / "settings" / "base.py"
    _replace(settings, ("django.db.backends.sqlite3", "django.db.backends.postgresql"))
    _append(root / "requirements.txt", "psycopg[binary]>=3.2\npymemcache>=4\n")


_MANAGE = """
    import os
    import sys
    from pathlib import Path

    if __name__ == "__main__":
        os.environ.setdefault("DJANGO_SETTINGS_MODULE", "{settings}")
        from django.core.management import execute_from_command_line

        sys.path.append(str(Path(__file__).parent.resolve() / "{package}"))
        execute_from_command_line(sys.argv)
    """
_WSGI = """
    import os

    from django.core.wsgi import get_wsgi_application

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "{settings}")
    application = get_wsgi_application()
    """
_URLS = """
    from django.contrib import admin
    from django.urls import path
    from django.views.generic import TemplateView

    urlpatterns = [
        path("", TemplateView.as_view(template_name="home.html")),
        path("admin/", admin.site.urls),
    ]
    """
_HOME = """
    {% load static %}<!doctype html>
    <html lang="en"><head><title>Home</title><link rel="stylesheet" href="{% static 'site.css' %}"></head>
    <body><h1>Home</h1></body></html>
    """


def _cookiecutter(root: Path) -> None:
    """As cookiecutter-django: a settings package, requirements that include others, whitenoise."""
    _write(
        root,
        {
            "manage.py": _MANAGE.format(settings="config.settings.local", package="bookshop"),
            "requirements/base.txt": """
                django==5.2.*
                django-environ==0.12.*
                whitenoise==6.*
                """,
            "requirements/local.txt": "-r base.txt\npsycopg[binary]==3.2.*\n",
            "requirements/production.txt": "-r base.txt\n\npsycopg[c]==3.2.*  # built\n",
            "bookshop/__init__.py": "",
            "bookshop/templates/home.html": _HOME,
            "bookshop/static/site.css": "h1 { color: #222; }\n",
            "config/__init__.py": "",
            "config/urls.py": _URLS,
            "config/wsgi.py": _WSGI.format(settings="config.settings.production"),
            "config/settings/__init__.py": "",
            "config/settings/base.py": """
                from pathlib import Path

                import environ

                BASE_DIR = Path(__file__).resolve(strict=True).parent.parent.parent
                APPS_DIR = BASE_DIR / "bookshop"
                env = environ.Env()

                DEBUG = env.bool("DJANGO_DEBUG", False)
                DATABASES = {"default": env.db("DATABASE_URL")}
                DATABASES["default"]["ATOMIC_REQUESTS"] = True
                DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
                ROOT_URLCONF = "config.urls"
                WSGI_APPLICATION = "config.wsgi.application"
                INSTALLED_APPS = [
                    "django.contrib.auth",
                    "django.contrib.contenttypes",
                    "django.contrib.sessions",
                    "django.contrib.messages",
                    "django.contrib.staticfiles",
                    "django.contrib.admin",
                ]
                MIDDLEWARE = [
                    "django.middleware.security.SecurityMiddleware",
                    "whitenoise.middleware.WhiteNoiseMiddleware",
                    "django.contrib.sessions.middleware.SessionMiddleware",
                    "django.middleware.common.CommonMiddleware",
                    "django.middleware.csrf.CsrfViewMiddleware",
                    "django.contrib.auth.middleware.AuthenticationMiddleware",
                    "django.contrib.messages.middleware.MessageMiddleware",
                    "django.middleware.clickjacking.XFrameOptionsMiddleware",
                ]
                STATIC_ROOT = str(BASE_DIR / "staticfiles")
                STATIC_URL = "/static/"
                STATICFILES_DIRS = [str(APPS_DIR / "static")]
                MEDIA_ROOT = str(APPS_DIR / "media")
                MEDIA_URL = "/media/"
                TEMPLATES = [
                    {
                        "BACKEND": "django.template.backends.django.DjangoTemplates",
                        "DIRS": [str(APPS_DIR / "templates")],
                        "APP_DIRS": True,
                        "OPTIONS": {
                            "context_processors": [
                                "django.template.context_processors.request",
                                "django.contrib.auth.context_processors.auth",
                                "django.contrib.messages.context_processors.messages",
                            ],
                        },
                    },
                ]
                """,
            "config/settings/local.py": """
                from .base import *
                from .base import env

                DEBUG = True
                SECRET_KEY = env("DJANGO_SECRET_KEY", default="for development")
                """,
            "config/settings/production.py": """
                from .base import *
                from .base import env

                SECRET_KEY = env("DJANGO_SECRET_KEY")
                ALLOWED_HOSTS = env.list("DJANGO_ALLOWED_HOSTS", default=["example.com"])
                SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
                SECURE_SSL_REDIRECT = env.bool("DJANGO_SECURE_SSL_REDIRECT", default=True)
                SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = True
                STORAGES = {
                    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
                    "staticfiles": {
                        "BACKEND": "whitenoise.storage.CompressedManifestStaticFilesStorage",
                    },
                }
                """,
        },
    )


def _with_client(root: Path) -> None:
    _append(root / "requirements" / "production.txt", "pymemcache>=4\n")


def _dynaconf(root: Path) -> None:
    """A `startproject` whose settings Dynaconf takes over in the last line."""
    _startproject(root)
    _append(
        root / root.name / "settings.py",
        "\nimport dynaconf\n\nsettings = dynaconf.DjangoDynaconf(__name__)\n",
    )
    _write(
        root,
        {
            "requirements.txt": "Django>=5.2,<5.3\ndynaconf>=3.2\n",
            "settings.toml": """
                [default]
                MEDIA_ROOT = "/home/somebody/media"
                MEDIA_URL = "/media/"
                ALLOWED_HOSTS = []

                [default.DATABASES.default]
                ENGINE = "django.db.backends.postgresql"
                NAME = "shelf"

                [development]
                DEBUG = true

                [production]
                DEBUG = false
                """,
        },
    )


def _dynaconf_requirements(root: Path) -> None:
    _append(root / "requirements.txt", "psycopg[binary]>=3.2\npymemcache>=4\n")


def _installs_itself(root: Path) -> None:
    """A package by setuptools, with the project in `src`; its requirements are `.`."""
    _write(
        root,
        {
            "requirements.txt": ".\n",
            "pyproject.toml": """
                [build-system]
                requires = ["setuptools>=68"]
                build-backend = "setuptools.build_meta"

                [project]
                name = "press"
                version = "1.0"
                requires-python = ">=3.10"
                dependencies = ["Django>=5.2,<5.3"]
                """,
            "src/manage.py": _MANAGE.format(settings="press.settings", package="press"),
            "src/press/__init__.py": "",
            "src/press/urls.py": _URLS,
            "src/press/wsgi.py": _WSGI.format(settings="press.settings"),
            "src/press/templates/home.html": _HOME,
            "src/press/static/site.css": "h1 { color: #222; }\n",
            "src/press/settings.py": """
                import os

                SECRET_KEY = os.environ["SECRET_KEY"]
                DEBUG = False
                DATABASES = {"default": {"ENGINE": "django.db.backends.postgresql"}}
                DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
                ROOT_URLCONF = "press.urls"
                WSGI_APPLICATION = "press.wsgi.application"
                STATIC_URL = "static/"
                INSTALLED_APPS = [
                    "press",
                    "django.contrib.admin",
                    "django.contrib.auth",
                    "django.contrib.contenttypes",
                    "django.contrib.sessions",
                    "django.contrib.messages",
                    "django.contrib.staticfiles",
                ]
                MIDDLEWARE = [
                    "django.middleware.security.SecurityMiddleware",
                    "django.contrib.sessions.middleware.SessionMiddleware",
                    "django.middleware.common.CommonMiddleware",
                    "django.middleware.csrf.CsrfViewMiddleware",
                    "django.contrib.auth.middleware.AuthenticationMiddleware",
                    "django.contrib.messages.middleware.MessageMiddleware",
                    "django.middleware.clickjacking.XFrameOptionsMiddleware",
                ]
                TEMPLATES = [
                    {
                        "BACKEND": "django.template.backends.django.DjangoTemplates",
                        "APP_DIRS": True,
                        "OPTIONS": {
                            "context_processors": [
                                "django.template.context_processors.request",
                                "django.contrib.auth.context_processors.auth",
                                "django.contrib.messages.context_processors.messages",
                            ],
                        },
                    },
                ]
                """,
        },
    )


def _dependencies(root: Path) -> None:
    _replace(
        root / "pyproject.toml",
        ('"Django>=5.2,<5.3"', '"Django>=5.2,<5.3", "psycopg[binary]>=3.2", "pymemcache>=4"'),
    )


PROJECTS = [
    Project(
        "fresh",
        _startproject,
        [
            f"requirements: requirements.txt {NO_CLIENT}",
            f"requirements: requirements.txt {NO_DRIVER}",
            f"settings: fresh/settings.py, line {{DEBUG = True}}: {IN_DEVELOPMENT}",
            f"settings: fresh/settings.py, line {{DATABASES = {{}}: {NOT_POSTGRESQL}",
        ],
        _for_postgresql,
        front=404,
    ),
    Project(
        "gallery",
        _wagtail,
        [
            f"requirements: requirements.txt {NO_CLIENT}",
            f"requirements: requirements.txt {NO_DRIVER}",
            f"settings: gallery/settings/base.py, line {{DATABASES = {{}}: {NOT_POSTGRESQL}",
        ],
        _wagtail_for_postgresql,
    ),
    Project(
        "bookshop",
        _cookiecutter,
        [
            "packages: requirements/production.txt, line 3: psycopg comes as source, and is built on"
            " every web host by build-essential, python3-dev and libpq-dev; write"
            ' packages=["build-essential", "python3-dev", "libpq-dev"]',
            f"requirements: requirements/production.txt {NO_CLIENT}",
        ],
        _with_client,
        ['packages=["build-essential", "python3-dev", "libpq-dev"],'],
    ),
    Project(
        "shelf",
        _dynaconf,
        [
            f"requirements: requirements.txt {NO_CLIENT}",
            f"requirements: requirements.txt {NO_DRIVER}",
        ],
        _dynaconf_requirements,
        # Dynaconf's own switch: its default is the environment for development.
        ['environment={"DJANGO_ENV": "production"},'],
        front=404,
    ),
    Project(
        "press",
        _installs_itself,
        [
            f"requirements: requirements.txt {NO_CLIENT}",
            f"requirements: requirements.txt {NO_DRIVER}",
        ],
        _dependencies,
    ),
]
