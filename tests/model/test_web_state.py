"""What a look at a site's loaded settings finds; Django itself is only on hosts."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

#: What `web_state` takes from Django.
_DJANGO = {
    "django": ("apps", "conf", "core", "db"),
    "django.apps": ("apps",),
    "django.conf": ("settings",),
    "django.core": ("mail",),
    "django.core.cache": ("caches",),
    "django.core.cache.backends": (),
    "django.core.cache.backends.filebased": ("FileBasedCache",),
    "django.core.cache.backends.locmem": ("LocMemCache",),
    "django.core.files": (),
    "django.core.files.storage": ("FileSystemStorage", "default_storage"),
    "django.db": ("connections",),
    "django.db.models": ("FileField",),
}

#: As django-compressor leaves the settings of a site that says nothing: enabled where DEBUG is not.
COMPRESSOR = {
    "INSTALLED_APPS": ["django.contrib.staticfiles", "compressor"],
    "COMPRESS_ENABLED": True,
    "COMPRESS_OFFLINE": False,
}


@pytest.fixture
def web_state(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The program, for a site whose settings a test says."""
    for name, has in _DJANGO.items():
        module = ModuleType(name)
        vars(module).update({part: object() for part in has})
        monkeypatch.setitem(sys.modules, name, module)
    name = "tierstack.agents.web_state"
    monkeypatch.delitem(sys.modules, name, raising=False)
    found = importlib.import_module(name)
    monkeypatch.delitem(sys.modules, name)
    return found


@pytest.mark.parametrize(
    ("changed", "refused"),
    [
        ({}, True),
        ({"COMPRESS_OFFLINE": True}, False),
        ({"COMPRESS_ENABLED": False}, False),
        ({"INSTALLED_APPS": ["django.contrib.staticfiles"]}, False),
    ],
    ids=["as it comes", "made once", "off", "not installed"],
)
def test_files_that_pages_would_make_are_refused(
    web_state: Any, changed: dict[str, Any], refused: bool
) -> None:
    """One node's would be named by pages of all: the setting and the missing command are named."""
    web_state.settings = SimpleNamespace(**{**COMPRESSOR, **changed})
    assert (
        list(web_state.made_by_pages())
        == [
            "COMPRESS_OFFLINE: django-compressor would make files as pages are asked for, where no other"
            " host has them; write COMPRESS_OFFLINE = True, and in the site"
            ' build=["manage.py collectstatic --noinput", "manage.py compress"]'
        ]
        * refused
    )


def test_settings_without_a_word_of_it(web_state: Any) -> None:
    """The app stands in the list, and its settings were never loaded: it makes nothing."""
    web_state.settings = SimpleNamespace(INSTALLED_APPS=["compressor"])
    assert not list(web_state.made_by_pages())


@pytest.mark.parametrize(("size", "refused"), [(None, False), (3, False), (4, True)])
def test_pool_that_postgresql_has_no_room_for(
    web_state: Any, monkeypatch: pytest.MonkeyPatch, size: int | None, refused: bool
) -> None:
    """What the site asks for is counted for each worker; without a word of it, a worker is one."""
    settings = ModuleType("tierstack_settings")
    if size:
        settings.tierstack_pool_size = size  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tierstack_settings", settings)
    budget = {"workers": 20, "allowed": 99, "size": 3, "base": 20, "each": 20}
    assert (
        list(web_state.too_many(budget))
        == [
            "DATABASES['default']['OPTIONS']['pool']: max_size=4 in each of 20 workers needs 100"
            " connections, and PostgreSQL accepts 99; write max_size=3, or db.max_connections = 150 in"
            " group_data"
        ]
        * refused
    )
    assert not list(web_state.too_many({}))
