"""
Looks at the site as it is once its settings are loaded: what did not take, and what cannot work.

Run inside the site, by its own `manage.py shell`, so that Django itself says what the settings
amount to. `report` prints, behind the marker that it is given, what to correct, a line each: in
"settings" what holds for every cluster, in "local" the state that a site keeps on one web host,
where the other web hosts do not see it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Collection, Iterator, Mapping
from importlib import import_module
from typing import Any

from django.apps import apps
from django.conf import settings
from django.core import mail
from django.core.cache import caches
from django.core.cache.backends.filebased import FileBasedCache
from django.core.cache.backends.locmem import LocMemCache
from django.core.files.storage import FileSystemStorage, default_storage
from django.db import connections
from django.db.models import FileField

#: Settings whose values nobody is shown.
SECRET = frozenset({"SECRET_KEY", "DATABASES", "CACHES", "STORAGES"})


def report(marker: str, own_caches: Collection[str], pool: Mapping[str, int]) -> None:
    """
    Print what is wrong, as JSON behind a marker: the site's own code prints, too.

    Args:
        marker: what begins the line.
        own_caches: aliases of caches that each host may keep for itself.
        pool: what PostgreSQL has for the site's own pool of connections; {} where it is not known.
    """
    wrong, local = {*not_taken(), *not_configured(), *made_by_pages(), *too_many(pool)}, set()
    if not wrong:  # What cannot be used cannot be looked at either.
        local = {*databases(), *sessions(), *other_caches(own_caches), *uploads()}
    found = {"settings": sorted(wrong), "local": sorted(local)}
    print("\n" + marker + json.dumps(found), flush=True)


def not_taken() -> Iterator[str]:
    """Say which settings of the cluster are others in the site: something has taken over."""
    decided: dict[str, Any] = sys.modules["tierstack_settings"].tierstack_decided
    for name, value in decided.items():
        has = getattr(settings, name, None)
        if not same(value, has):
            shown = "another value" if name in SECRET else f"{has!r} instead of {value!r}"
            yield (
                f"{name}: the running site has {shown}, since something puts its own settings in the"
                f" place of Django's ({type(settings).__module__}); have it leave this one alone"
            )


def same(decided: Any, has: Any) -> bool:
    """Whether a setting is as it was decided; Django and libraries add to dictionaries."""
    if isinstance(decided, dict):
        return isinstance(has, dict) and all(
            name in has and same(value, has[name]) for name, value in decided.items()
        )
    if isinstance(decided, (list, tuple)) and isinstance(has, (list, tuple)):
        return list(decided) == list(has)
    return bool(decided == has)


def not_configured() -> Iterator[str]:
    """Say what would fail at the first upload or mail, by making each of them once."""
    try:
        getattr(default_storage, "location", None)
    except Exception as error:
        yield (
            f"the default storage cannot be used ({said(error)}), and the first upload would fail;"
            " correct STORAGES['default'] and what it needs"
        )
    try:
        mail.get_connection()
    except Exception as error:
        yield (
            f"EMAIL_BACKEND: {settings.EMAIL_BACKEND} cannot be used ({said(error)}), and the first"
            " mail would fail; correct it and what it needs"
        )


def made_by_pages() -> Iterator[str]:
    """Say what pages would make of static files while they are asked for: nobody else has it."""
    if "compressor" not in settings.INSTALLED_APPS or not getattr(
        settings, "COMPRESS_ENABLED", False
    ):
        return
    if not getattr(settings, "COMPRESS_OFFLINE", False):
        yield (
            "COMPRESS_OFFLINE: django-compressor would make files as pages are asked for, where no"
            " other host has them; write COMPRESS_OFFLINE = True, and in the site"
            ' build=["manage.py collectstatic --noinput", "manage.py compress"]'
        )


def too_many(pool: Mapping[str, int]) -> Iterator[str]:
    """Say if the pools of all workers are larger than what PostgreSQL lets in."""
    size: int = getattr(sys.modules["tierstack_settings"], "tierstack_pool_size", 0)
    if pool and size > pool["size"]:
        need = pool["base"] + pool["each"] * size
        yield (
            f"DATABASES['default']['OPTIONS']['pool']: max_size={size} in each of {pool['workers']}"
            f" workers needs {need} connections, and PostgreSQL accepts {pool['allowed']}; write"
            f" max_size={pool['size']}, or db.max_connections = {need + need // 2} in group_data"
        )


def said(error: Exception) -> str:
    """Return an error as a traceback's last line has it."""
    return f"{type(error).__name__}: {error}".rstrip(": ")


def databases() -> Iterator[str]:
    for alias in connections:
        if connections[alias].vendor == "sqlite":
            name = connections[alias].settings_dict["NAME"]
            yield (
                f"DATABASES[{alias!r}]: SQLite in {name} is another database on each web host; move"
                " its tables to 'default', or write a server that all of them reach"
            )


def sessions() -> Iterator[str]:
    if "django.contrib.sessions" not in settings.INSTALLED_APPS:
        return
    engine, alias = settings.SESSION_ENGINE, settings.SESSION_CACHE_ALIAS
    store = import_module(engine).SessionStore
    if any(base.__module__ == "django.contrib.sessions.backends.file" for base in store.__mro__):
        yield (
            f"SESSION_ENGINE: {engine!r} keeps sessions in files, and visitors are logged out by the"
            " next web host; write 'django.contrib.sessions.backends.cached_db'"
        )
    # The engines "cache" and "cached_db", and what is made from them.
    elif hasattr(store, "cache_key_prefix") and is_local(alias):
        yield (
            f"SESSION_CACHE_ALIAS: the cache {alias!r} is another one on each web host, and visitors"
            " are logged out by the next; write 'default', which is the cluster's memcached"
        )


def is_local(alias: str) -> bool:
    return isinstance(caches[alias], (LocMemCache, FileBasedCache))


def other_caches(own: Collection[str]) -> Iterator[str]:
    for alias in settings.CACHES:
        if is_local(alias) and alias not in own:
            yield (
                f"CACHES[{alias!r}]: {type(caches[alias]).__name__} is another cache on each web host;"
                " let the site use 'default', which is the cluster's memcached, or if it may differ"
                f" from host to host, write local_caches=[{alias!r}] in the site"
            )


def uploads() -> Iterator[str]:
    advice = "leave its location to MEDIA_ROOT, which all of them share"
    if is_outside(default_storage):
        where = default_storage.location
        yield f"STORAGES['default']: {where} is another directory on each web host; {advice}"
    for model in apps.get_models():
        for field in model._meta.local_fields:
            own = isinstance(field, FileField) and field.storage is not default_storage
            if own and is_outside(field.storage):
                yield (
                    f"{model._meta.label}.{field.name}: its storage in {field.storage.location} is"
                    f" another directory on each web host; {advice}"
                )


def is_outside(storage: Any) -> bool:
    if not isinstance(storage, FileSystemStorage):
        return False
    root = os.path.realpath(settings.MEDIA_ROOT)
    return bool(os.path.commonpath([root, os.path.realpath(storage.location)]) != root)
