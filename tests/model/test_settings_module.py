"""The generated settings merge what the cluster decides into what the site says."""

from __future__ import annotations

import os
import sys
import types
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from roles.web.settings import settings_module, wsgi_module
from tests.model.conftest import HOSTS, SITES, Home
from tierstack.model.release import Release
from tierstack.secrets import Secrets

#: Signs that have broken other tools (docker-mailman#769).
PASSWORD = "p%40a's$\"@:/\\#é"

OWN: dict[str, Any] = {
    "SECRET_KEY": "from the repository",
    "DEBUG": False,
    "ALLOWED_HOSTS": ["localhost"],
    "DATABASES": {
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "CONN_MAX_AGE": 5,
            "HOST": "localhost",
            "OPTIONS": {"application_name": "blog", "connect_timeout": 9},
        },
        "archive": {"ENGINE": "django.db.backends.postgresql", "HOST": "elsewhere"},
    },
    "CACHES": {
        "default": {
            "BACKEND": "django.core.cache.backends.locmem.LocMemCache",
            "TIMEOUT": 30,
            "KEY_PREFIX": "v2",
            "OPTIONS": {"MAX_ENTRIES": 9},
        },
        "local": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
    },
    "LANGUAGE_CODE": "de",
}
RELEASE = Release("0123456789ab", "/srv/blog/releases/0123456789ab")
HASHED = "django.contrib.staticfiles.storage.ManifestStaticFilesStorage"


class Started(dict[str, Any]):
    """The settings that a site has, and the environment that its own settings saw."""

    environment: dict[str, str]
    pool_size: int


@pytest.fixture
def start(home: Home, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that starts the site `blog` with its own settings changed."""

    def started(
        django: tuple[int, int] = (5, 2), pymemcache: bool = True, web: int = 0, **own: Any
    ) -> Started:
        seen: dict[str, str] = {}
        module = _Module("blog.settings", {**OWN, **own}, seen)
        fake_django = types.ModuleType("django")
        fake_django.VERSION = django  # type: ignore[attr-defined]
        exceptions = types.ModuleType("django.core.exceptions")
        exceptions.ImproperlyConfigured = ValueError  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "blog", types.ModuleType("blog"))
        monkeypatch.setitem(sys.modules, "blog.settings", module)
        monkeypatch.setitem(sys.modules, "django", fake_django)
        monkeypatch.setitem(sys.modules, "django.core", types.ModuleType("django.core"))
        monkeypatch.setitem(sys.modules, "django.core.exceptions", exceptions)
        monkeypatch.setattr(
            "importlib.util.find_spec", lambda name: object() if pymemcache else None
        )
        monkeypatch.setattr(os, "environ", dict(os.environ))
        cluster = home.load()
        host, site = cluster.tier("web")[web], cluster.sites[0]
        settings: dict[str, Any] = {"__name__": "tierstack_settings"}
        exec(settings_module(cluster, host, site, RELEASE, _secrets()), settings)
        result = Started({k: v for k, v in settings.items() if k.isupper()})
        result.environment = seen
        result.pool_size = settings.get("tierstack_pool_size", 0)
        return result

    return started


class _Module(types.ModuleType):
    """A settings module that notes the environment as it is imported."""

    def __init__(self, name: str, values: dict[str, Any], seen: dict[str, str]) -> None:
        super().__init__(name)
        self.__dict__.update(values)
        self._seen = seen

    @property
    def __all__(self) -> list[str]:
        self._seen.update(os.environ)
        return [name for name in self.__dict__ if name.isupper()]


def _secrets() -> Secrets:
    return Secrets(
        Path("prod.secrets.toml"),
        {"sites.blog.database_password": PASSWORD, "sites.blog.secret_key": "generated"},
    )


def test_database_is_merged(start: Any) -> None:
    """Host, port, name, account and password are the cluster's; the rest is the site's."""
    found = start()["DATABASES"]
    assert found["archive"] == OWN["DATABASES"]["archive"]
    assert found["default"] == {
        "ENGINE": "django.db.backends.postgresql",
        "CONN_HEALTH_CHECKS": True,
        "CONN_MAX_AGE": 5,
        "HOST": "10.0.0.21,10.0.0.22",
        "PORT": "5432",
        "NAME": "blog",
        "USER": "blog",
        "PASSWORD": PASSWORD,
        "OPTIONS": {
            "application_name": "blog",
            "connect_timeout": 9,
            "keepalives_count": 3,
            "keepalives_idle": 5,
            "keepalives_interval": 3,
            "sslmode": "verify-ca",
            "sslrootcert": "/etc/tierstack/cluster-ca.pem",
            "target_session_attrs": "read-write",
            "tcp_user_timeout": 15000,
        },
    }


def test_single_database_host_is_not_asked_whether_it_is_primary(home: Home, start: Any) -> None:
    """One host needs no choice."""
    line = '("db2", {"address": "10.0.0.22", "memory_mb": 2048}),'
    assert line in HOSTS
    home.inventory(HOSTS.replace(line, ""))
    found = start()["DATABASES"]["default"]
    assert found["HOST"] == "10.0.0.21"
    assert "target_session_attrs" not in found["OPTIONS"]


REPLICA = 'replica_alias="replica", domains='


def test_reads_have_an_alias_of_their_own(home: Home, start: Any) -> None:
    """It is the default one, save that a standby is preferred; tests see one database."""
    assert "replica" not in start()["DATABASES"]
    home.group("all", SITES.replace("domains=", REPLICA))
    found = start()["DATABASES"]
    assert found["default"]["OPTIONS"]["target_session_attrs"] == "read-write"
    assert found["replica"] == {
        **found["default"],
        "OPTIONS": {**found["default"]["OPTIONS"], "target_session_attrs": "prefer-standby"},
        "TEST": {"MIRROR": "default"},
    }


def test_alias_for_reads_that_the_site_has_stays(home: Home, start: Any) -> None:
    """Whatever the site calls so is the site's."""
    home.group("all", SITES.replace("domains=", REPLICA))
    own = {**OWN["DATABASES"], "replica": {"ENGINE": "django.db.backends.postgresql"}}
    assert start(DATABASES=own)["DATABASES"]["replica"] == own["replica"]


def test_single_database_host_is_read_from(home: Home, start: Any) -> None:
    """Where there is no standby, the alias leads to the primary."""
    home.inventory(HOSTS.replace('("db2", {"address": "10.0.0.22", "memory_mb": 2048}),', ""))
    home.group("all", SITES.replace("domains=", REPLICA))
    found = start()["DATABASES"]
    assert found["replica"] == {**found["default"], "TEST": {"MIRROR": "default"}}


@pytest.mark.parametrize("primary", ["10.0.0.21", "10.0.0.22", "10.0.0.23"])
def test_standbys_share_reads(home: Home, start: Any, primary: str) -> None:
    """Whoever is primary, each of two standbys gets the reads of half of the web hosts."""
    databases = [("10.0.0.21", 1), ("10.0.0.22", 2), ("10.0.0.23", 3)]
    hosts = [(f"db{number}", {"address": address}) for address, number in databases]
    webs = [(f"web{number}", {"address": f"10.0.0.{10 + number}"}) for number in range(1, 7)]
    home.inventory(HOSTS, f"\ndb = {hosts!r}\nweb = {webs!r}")
    home.group("all", SITES.replace("domains=", REPLICA))
    read = []
    for web in range(6):
        asked = start(web=web)["DATABASES"]["replica"]["HOST"].split(",")
        assert sorted(asked) == [address for address, _ in databases]
        read.append(next(address for address in asked if address != primary))
    assert sorted(read) == sorted(3 * [a for a, _ in databases if a != primary])


def test_environment_is_there_before_the_site_reads_it(home: Home, start: Any) -> None:
    """DATABASE_URL carries any password, and the user's own variables win."""
    extra = 'environment={"THEME": "dark", "ALLOWED_HOSTS": "x"}, domains='
    home.group("all", SITES.replace("domains=", extra))
    seen = start().environment
    url = urlsplit(seen["DATABASE_URL"])
    assert (url.scheme, url.username, url.hostname, url.port, url.path) == (
        "postgresql",
        "blog",
        "10.0.0.21",
        5432,
        "/blog",
    )
    assert unquote(url.password or "") == PASSWORD
    assert (seen["THEME"], seen["ALLOWED_HOSTS"], seen["DEBUG"]) == ("dark", "x", "0")
    assert seen["DJANGO_SETTINGS_MODULE"] == "tierstack_settings"


def test_offered_variables_can_be_left_out(home: Home, start: Any) -> None:
    """A site that asks whether there is a variable DEBUG, or reads ALLOWED_HOSTS as JSON."""
    extra = 'environment={"DEBUG": None, "ALLOWED_HOSTS": None, "THEME": None}, domains='
    home.group("all", SITES.replace("domains=", extra))
    seen = start().environment
    assert {"DATABASE_URL", "SECRET_KEY", "DJANGO_SECRET_KEY"} <= set(seen)
    assert not {"DEBUG", "ALLOWED_HOSTS", "THEME"} & set(seen)


def test_site_that_takes_itself_for_development_is_refused(start: Any) -> None:
    """What follows from DEBUG in the site's settings is there already: it is not only set back."""
    assert start(DEBUG=0)["DEBUG"] is False
    with pytest.raises(ValueError) as caught:  # noqa: PT011 -- as below
        start(DEBUG="0")
    assert str(caught.value) == (
        "blog.settings: DEBUG is '0' here, so the site takes itself for one in development; write"
        " DEBUG = False there, or name the module for production as settings=… in the site; if it"
        ' asks whether there is a variable DEBUG, which is "0" here, write'
        ' environment={"DEBUG": None} in the site'
    )


def test_classes_of_settings_are_refused(start: Any) -> None:
    """django-configurations has no settings in the module itself."""
    base = type("Configuration", (), {"__module__": "configurations.base"})
    with pytest.raises(ValueError) as caught:  # noqa: PT011 -- as below
        start(PROD=type("Prod", (base,), {"__module__": "blog.settings"}))
    assert str(caught.value) == (
        "blog.settings: PROD is a class of django-configurations, and settings are read from a"
        " module; write one that says what the class says, and name it as settings=…"
    )


def test_settings_that_are_refused_are_not_used_half_read(
    start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Django's lazy settings, asked anything meanwhile, would load what has been read so far."""

    class Lazy:
        def __getattribute__(self, name: str) -> Any:
            raise AssertionError(f"settings were asked for {name}")

    conf = types.ModuleType("django.conf")
    conf.settings = Lazy()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "django.conf", conf)
    with pytest.raises(ValueError, match="has the engine"):
        start(DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3"}})


def test_https_decides_on_cookies_and_redirects(home: Home, start: Any) -> None:
    """As Django's `check --deploy` asks, where the site says nothing of it; HSTS by its own setting."""
    names = ("SECURE_SSL_REDIRECT", "SESSION_COOKIE_SECURE", "CSRF_COOKIE_SECURE")
    found = start()
    assert [found[name] for name in names] == [True] * 3
    assert "SECURE_HSTS_SECONDS" not in found
    assert start(SESSION_COOKIE_SECURE=False)["SESSION_COOKIE_SECURE"] is False
    home.pair()
    home.group("balancer", "certificate = 'www.pem'\nhsts_s = 3600")
    assert start()["SECURE_HSTS_SECONDS"] == 3600
    assert start(SECURE_HSTS_SECONDS=9)["SECURE_HSTS_SECONDS"] == 9


def test_what_needs_https_is_refused_without(home: Home, start: Any) -> None:
    """By its name, and before the release serves; a proxy in front may have https."""
    home.group("balancer", "https = False")
    assert "SESSION_COOKIE_SECURE" not in start(SECURE_SSL_REDIRECT=False)
    for name, outcome in {
        "SECURE_SSL_REDIRECT": "every page leads to a port that nobody serves",
        "SESSION_COOKIE_SECURE": "no log-in lasts",
        "CSRF_COOKIE_SECURE": "no form is taken",
    }.items():
        with pytest.raises(ValueError) as caught:  # noqa: PT011 -- as above
            start(**{name: True})
        assert str(caught.value) == (
            f"blog.settings: {name} is true here, and balancer.https is False, so {outcome}; write"
            " https=True in balancer, or the proxy in front that ends TLS as trusted_proxies, or"
            " False there"
        )
    start(SECURE_SSL_REDIRECT=True, SECURE_SSL_HOST="secure.example.com")
    home.group("balancer", "https = False\ntrusted_proxies = ['192.0.2.7']")
    assert start(SECURE_SSL_REDIRECT=True)["SECURE_SSL_REDIRECT"] is True


def test_library_that_takes_over_gets_what_the_cluster_decides(
    start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Dynaconf: the module's last line puts an object of its own in Django's place."""
    conf = types.ModuleType("django.conf")
    conf.settings = object()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "django.conf", conf)
    theirs = types.SimpleNamespace(DEBUG=True, MEDIA_ROOT="/home/me", THEME="dark")

    class TakesOver(list[str]):
        def __iter__(self) -> Any:
            conf.settings = theirs  # type: ignore[attr-defined]
            return super().__iter__()

    found = start(INSTALLED_APPS=[], ALLOWED_HOSTS=TakesOver(["localhost"]))
    assert (theirs.DEBUG, theirs.MEDIA_ROOT, theirs.THEME) == (False, "/srv/blog/media", "dark")
    assert found["DATABASES"] == theirs.DATABASES
    assert theirs.ALLOWED_HOSTS == ["localhost", "www.example.com"]


def test_other_engine_is_refused(start: Any) -> None:
    """A site that would go on with SQLite is told what to write."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011 -- stands for Django's ImproperlyConfigured
        start(DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3"}})
    assert str(caught.value) == (
        "blog.settings: DATABASES['default'] has the engine 'django.db.backends.sqlite3' here, and"
        " the cluster's database is PostgreSQL; let it follow os.environ['DATABASE_URL'], or write"
        " 'ENGINE': 'django.db.backends.postgresql'"
    )


def test_other_wrappers_of_postgresql_stay(start: Any) -> None:
    """django-postgres-extra has no "postgresql" in its engine's name."""
    found = start(DATABASES={"default": {"ENGINE": "psqlextra.backend"}})
    assert found["DATABASES"]["default"]["ENGINE"] == "psqlextra.backend"


def _database(options: dict[str, Any], **more: Any) -> dict[str, Any]:
    engine = "django.db.backends.postgresql"
    return {"default": {"ENGINE": engine, "OPTIONS": options, **more}}


@pytest.mark.parametrize(
    ("own", "sizes"),
    [
        (True, {"min_size": 1, "max_size": 4}),
        (
            {"min_size": 4, "max_size": 9, "timeout": 5},
            {"min_size": 1, "max_size": 9, "timeout": 5},
        ),
    ],
)
def test_pool_of_the_site_takes_one_connection_a_worker(
    start: Any, own: Any, sizes: dict[str, Any]
) -> None:
    """Connections that are kept give way to it: Django refuses both at once, at the first query."""
    found = start(DATABASES=_database({"pool": own}))["DATABASES"]["default"]
    assert (found["CONN_MAX_AGE"], found["OPTIONS"]["pool"]) == (0, sizes)
    asked = start(DATABASES=_database({"pool": own})).pool_size
    assert asked == (0 if own is True else sizes["max_size"])
    found = start(DATABASES=_database({"pool": False}))["DATABASES"]["default"]
    assert (found["CONN_MAX_AGE"], found["OPTIONS"]["pool"]) == (60, False)


def test_options_that_cannot_work_are_named_at_once(start: Any) -> None:
    """Each with what to write instead; before anything is migrated or served."""
    options = {
        "service": "mine",
        "hostaddr": "10.0.0.1",
        "sslmode": "disable",
        "target_session_attrs": "any",
        "pool": True,
    }
    with pytest.raises(ValueError, match="DATABASES") as caught:
        start(django=(5, 0), DATABASES=_database(options, CONN_MAX_AGE=60))
    assert str(caught.value) == (
        "blog.settings: DATABASES['default']['OPTIONS'] has what cannot work on the cluster:"
        " service='mine': this host has no such file of yours; leave it out here;"
        " hostaddr='10.0.0.1': the cluster's database hosts come first; leave it out here;"
        " sslmode='disable': the cluster's PostgreSQL takes nothing that is not encrypted; leave it"
        " out here; target_session_attrs='any': writes would go to a standby; leave it out, and let"
        " reads use replica_alias of the site; pool=True: it takes Django 5.1 and psycopg[pool]; write"
        " them in requirements.txt, or leave it out; pool: a pool keeps connections by itself; leave"
        " CONN_MAX_AGE out"
    )
    start(DATABASES=_database({"sslmode": "prefer", "target_session_attrs": "primary"}))


def test_missing_client_of_memcached_is_named(start: Any) -> None:
    """A site without pymemcache is told where to write it."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011 -- as above
        start(pymemcache=False)
    assert str(caught.value) == (
        "requirements.txt: pymemcache is missing, and the cluster's cache is memcached;"
        " write pymemcache>=3.5 there"
    )


def test_cache_is_merged(start: Any) -> None:
    """Backend and hosts are the cluster's; prefix, time-out and other aliases are the site's."""
    found = start()["CACHES"]
    assert found["local"] == OWN["CACHES"]["local"]
    assert found["default"] == {
        "BACKEND": "django.core.cache.backends.memcached.PyMemcacheCache",
        "LOCATION": ["10.0.0.31:11211"],
        "KEY_PREFIX": "blog:v2",
        "TIMEOUT": 30,
        "OPTIONS": {
            "connect_timeout": 0.1,
            "timeout": 0.3,
            "ignore_exc": True,
            "retry_attempts": 0,
            "dead_timeout": 15,
            "no_delay": True,
        },
    }


def test_cache_options_of_the_site_win(start: Any) -> None:
    """A site that uses memcached already keeps its options."""
    backend = "django.core.cache.backends.memcached.PyMemcacheCache"
    own = {"default": {"BACKEND": backend, "OPTIONS": {"timeout": 1, "max_pool_size": 4}}}
    options = start(CACHES=own)["CACHES"]["default"]["OPTIONS"]
    assert (options["timeout"], options["max_pool_size"], options["dead_timeout"]) == (1, 4, 15)


def test_pylibmc_hashes_consistently(start: Any) -> None:
    """A cache host more moves only its share of the keys, unless the site has chosen otherwise."""

    def behaviors(**options: Any) -> Any:
        backend = "django.core.cache.backends.memcached.PyLibMCCache"
        own = {"default": {"BACKEND": backend, "OPTIONS": options}}
        return start(CACHES=own)["CACHES"]["default"]["OPTIONS"]["behaviors"]

    assert behaviors() == {"ketama": True}
    assert behaviors(behaviors={"tcp_nodelay": True}) == {"ketama": True, "tcp_nodelay": True}
    assert behaviors(behaviors={"distribution": "modula"}) == {"distribution": "modula"}
    assert behaviors(binary=True, behaviors={"ketama": False}) == {"ketama": False}


def test_every_web_host_has_the_same_settings(home: Home) -> None:
    """The order of cache hosts decides which host has which key, so it is the same everywhere."""
    more = HOSTS.replace("cache = [", 'cache = [("cache9", {"address": "10.0.0.9"}), ').replace(
        '"10.0.0.9"', '"10.0.0.9", "memory_mb": 512'
    )
    home.inventory(more)
    cluster = home.load()
    site = cluster.sites[0]
    texts = {
        settings_module(cluster, host, site, RELEASE, _secrets()) for host in cluster.tier("web")
    }
    assert len(texts) == 1
    assert b"['10.0.0.9:11211', '10.0.0.31:11211']" in texts.pop()


@pytest.mark.parametrize(
    ("environment", "own", "expected"),
    [
        ("{}", "from the repository", "generated"),
        ("{}", "", "generated"),
        ('{"DJANGO_KEY": "the user\'s"}', "the user's", "the user's"),
        ('{"DJANGO_KEY": "the user\'s"}', "from the repository", "generated"),
    ],
)
def test_secret_key(home: Home, start: Any, environment: str, own: str, expected: str) -> None:
    """A key from the user's environment stays; one that lies in a repository does not."""
    home.group("all", SITES.replace("domains=", f"environment={environment}, domains="))
    assert start(SECRET_KEY=own)["SECRET_KEY"] == expected


def test_key_is_there_before_the_site_reads_it(start: Any) -> None:
    """Under both usual names: a token that is signed by it is good on all nodes."""
    seen = start().environment
    assert (seen["SECRET_KEY"], seen["DJANGO_SECRET_KEY"]) == ("generated", "generated")
    own = start(SECRET_KEY="generated", JWT={"SIGNING_KEY": "generated"})
    assert own["JWT"] == {"SIGNING_KEY": "generated"}


@pytest.mark.parametrize(
    ("own", "where"),
    [
        ({"JWT": {"SIGNING_KEY": OWN["SECRET_KEY"]}}, "JWT['SIGNING_KEY']"),
        ({"FIELD_KEYS": [b"x", OWN["SECRET_KEY"].encode()]}, "FIELD_KEYS[1]"),
    ],
)
def test_copy_of_a_replaced_key_is_refused(start: Any, own: dict[str, Any], where: str) -> None:
    """What was made from another key than the cluster's would differ from node to node."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011 -- as below
        start(**own)
    assert str(caught.value) == (
        f"blog.settings: {where} has the SECRET_KEY that is written or made there, which the cluster"
        ' replaces by its own; write SECRET_KEY = os.environ["SECRET_KEY"] there'
    )


def test_hosts_and_origins(home: Home, start: Any) -> None:
    """The domains are allowed, over https, and the site's own hosts stay."""
    home.group("all", SITES.replace('"www.example.com"', '"*.example.com", "example.org"'))
    found = start()
    assert found["ALLOWED_HOSTS"] == ["localhost", ".example.com", "example.org"]
    assert found["CSRF_TRUSTED_ORIGINS"] == ["https://*.example.com", "https://example.org"]
    assert found["SECURE_PROXY_SSL_HEADER"] == ("HTTP_X_FORWARDED_PROTO", "https")
    assert found["DEBUG"] is False
    assert found["LANGUAGE_CODE"] == "de"


def test_origins_name_an_unusual_port(home: Home, start: Any) -> None:
    """Browsers send the port in Origin when it is not the scheme's own."""
    home.group("balancer", "https = False\nhttp_port = 8000")
    assert start()["CSRF_TRUSTED_ORIGINS"] == ["http://www.example.com:8000"]


def test_files(start: Any) -> None:
    """Uploads and static files lie where the media tier has them."""
    found = start()
    assert (found["MEDIA_ROOT"], found["MEDIA_URL"]) == ("/srv/blog/media", "/media/")
    assert (found["STATIC_ROOT"], found["STATIC_URL"]) == (RELEASE.static, "/static/")


def test_static_names_are_hashed(home: Home, start: Any) -> None:
    """By default, in the place of Django's plain storage only; off where the site says so."""
    assert start()["STORAGES"]["staticfiles"]["BACKEND"] == HASHED
    own = {"default": {"BACKEND": "s3"}, "staticfiles": {"BACKEND": "whitenoise"}}
    assert start(STORAGES=own)["STORAGES"] == own
    old = start(django=(4, 1))
    assert old["STATICFILES_STORAGE"] == HASHED
    assert "STORAGES" not in old
    home.group("all", SITES.replace("domains=", "hashed_static=False, domains="))
    assert "STORAGES" not in start()


def test_modules_are_python(home: Home) -> None:
    """What is generated compiles, whatever the values."""
    cluster = home.load()
    site = cluster.sites[0]
    host = cluster.tier("web")[0]
    compile(wsgi_module(cluster, host, site, RELEASE), "tierstack_wsgi.py", "exec")
    text = settings_module(cluster, host, site, RELEASE, _secrets())
    compile(text, "tierstack_settings.py", "exec")


@pytest.mark.parametrize(
    "own",
    [
        {},
        {"FILE_UPLOAD_PERMISSIONS": None, "FILE_UPLOAD_DIRECTORY_PERMISSIONS": None},
        {"STORAGES": {"default": {"OPTIONS": {"file_permissions_mode": None}}}},
    ],
)
def test_uploads_are_readable(start: Any, own: dict[str, Any]) -> None:
    """None leaves large uploads at 0600, and nobody but the site could read them."""
    found = start(**own)
    assert found["FILE_UPLOAD_PERMISSIONS"] == 0o644
    assert found["FILE_UPLOAD_DIRECTORY_PERMISSIONS"] == 0o755


def test_modes_that_let_others_read_stay(start: Any) -> None:
    """The site's choice, as long as its uploads can be served; what another storage holds is its own."""
    found = start(
        FILE_UPLOAD_PERMISSIONS=0o664,
        FILE_UPLOAD_DIRECTORY_PERMISSIONS=0o2771,
        STORAGES={"private": {"OPTIONS": {"file_permissions_mode": 0o600}}},
    )
    assert found["FILE_UPLOAD_PERMISSIONS"] == 0o664
    assert found["FILE_UPLOAD_DIRECTORY_PERMISSIONS"] == 0o2771


@pytest.mark.parametrize(
    ("own", "name", "mode", "instead"),
    [
        ({"FILE_UPLOAD_PERMISSIONS": 0o600}, "FILE_UPLOAD_PERMISSIONS", "600", "644"),
        ({"FILE_UPLOAD_PERMISSIONS": 0o640}, "FILE_UPLOAD_PERMISSIONS", "640", "644"),
        (
            {"FILE_UPLOAD_DIRECTORY_PERMISSIONS": 0o750},
            "FILE_UPLOAD_DIRECTORY_PERMISSIONS",
            "750",
            "755",
        ),
        (
            {"STORAGES": {"default": {"OPTIONS": {"file_permissions_mode": 0o640}}}},
            "STORAGES['default']['OPTIONS']['file_permissions_mode']",
            "640",
            "644",
        ),
    ],
)
def test_mode_that_keeps_uploads_from_visitors_is_refused(
    start: Any, own: dict[str, Any], name: str, mode: str, instead: str
) -> None:
    """It would be a deploy that ends well, with pictures that are 403."""
    with pytest.raises(ValueError, match=r"FILE_UPLOAD|file_permissions") as refused:
        start(**own)
    assert str(refused.value) == (
        f"blog.settings: {name} is 0o{mode}, which keeps uploads from those who serve them, and"
        f" visitors get 403; write 0o{instead}; for files that only the site's own views give out,"
        " write a storage of their own"
    )
