"""The generated modules of a site: its settings on this cluster, its WSGI module, its manage.py."""

from __future__ import annotations

import shlex
from urllib.parse import quote

from roles.web.health import HEALTH_PATH
from tierstack.model import Cluster, Host, Site
from tierstack.model.check_scheme import ADVICE, NEEDS_HTTPS, serves_https
from tierstack.model.front import ADDRESS_HEADERS, PROXY_HEADERS
from tierstack.model.release import Release
from tierstack.operations.config import template
from tierstack.secrets import Secrets

CA_FILE = "/etc/tierstack/cluster-ca.pem"
#: What `web-node` asks from where Apache lets nobody else in.
WEB_NODE = "127.0.0.9"
WORKERS_DIRECTORY = "/run/tierstack/workers"

#: Locks by which `web-pause` holds requests back, and knows when none is under way.
DOOR, ROOM = "/run/tierstack/door", "/run/tierstack/room"

#: What keeps visitors away from a node, and the word that its health path says then.
DRAINED_BY = [
    ("/etc/tierstack/hold", "held"),
    ("/run/tierstack/deploying", "deploying"),
    ("/run/tierstack/drain", "draining"),
]

#: A dead cache host is skipped: found out within 0.1 s, then left alone for 15 s. pymemcache's
#: defaults have no time-out at all.
CACHE_OPTIONS = {
    "connect_timeout": 0.1,
    "timeout": 0.3,
    "ignore_exc": True,
    "retry_attempts": 0,
    "dead_timeout": 15,
    "no_delay": True,
}


def database_url(cluster: Cluster, site: Site, password: str) -> str:
    """
    Return the site's DATABASE_URL: for settings that read the engine from it.

    It names one host, since few parsers understand several; the hosts that count are set after the
    site's settings were read.
    """
    db = cluster.tier("db")[0]
    account = quote(site.database, safe="")
    address = f"{db.address}:{cluster.settings.db.port}"
    return f"postgresql://{account}:{quote(password, safe='')}@{address}/{site.database}"


def database_options(cluster: Cluster) -> dict[str, object]:
    """Return libpq's options; what the site's own settings say of them wins."""
    options: dict[str, object] = {
        "connect_timeout": 3,
        # A host that falls silent under a query is noticed within some 15 s, not 15 minutes.
        "keepalives_idle": 5,
        "keepalives_interval": 3,
        "keepalives_count": 3,
        "tcp_user_timeout": 15000,
        "sslmode": "verify-ca",
        "sslrootcert": CA_FILE,
    }
    if len(cluster.tier("db")) > 1:
        options["target_session_attrs"] = "read-write"
    return options


def replica_hosts(cluster: Cluster, host: Host) -> list[str]:
    """
    Return the addresses of the database hosts, in the order in which a web host asks them for reads.

    The first standby gets a web host's reads, and nobody knows today who is primary tomorrow: so web
    hosts start at different ones, and every other goes through them backwards, lest whoever follows
    the primary gets its share as well.
    """
    addresses = [db.address for db in cluster.tier("db")]
    number = cluster.tier("web").index(host)
    start = number // 2 % len(addresses)
    turned = addresses[start:] + addresses[:start]
    return turned[::-1] if number % 2 else turned


def origins(cluster: Cluster, site: Site) -> list[str]:
    """Return where forms of the site may come from, as CSRF_TRUSTED_ORIGINS has it."""
    balancer = cluster.settings.balancer
    scheme, port, usual = "https", balancer.https_port, 443
    if not balancer.https:
        scheme, port, usual = "http", balancer.http_port, 80
    suffix = "" if port == usual else f":{port}"
    return [f"{scheme}://{domain}{suffix}" for domain in site.settings.domains]


def settings_module(
    cluster: Cluster, host: Host, site: Site, release: Release, secrets: Secrets
) -> bytes:
    """Return `tierstack_settings.py`."""
    settings = site.settings
    password = secrets[f"sites.{site.name}.database_password"]
    secret_key = secrets[f"sites.{site.name}.secret_key"]
    balancer = cluster.settings.balancer
    # Django writes *.example.com as .example.com.
    domains = [domain.removeprefix("*") for domain in settings.domains]
    offered = {
        "DATABASE_URL": database_url(cluster, site, password),
        "SECRET_KEY": secret_key,
        "DJANGO_SECRET_KEY": secret_key,
        "DEBUG": "0",
        "ALLOWED_HOSTS": ",".join(domains),
    }
    own = {**settings.environment, **secrets.environment(site.name)}
    values = {
        "from_user": {name: value for name, value in own.items() if value is not None},
        "environment": {name: value for name, value in offered.items() if name not in own},
        "database": {
            "HOST": ",".join(host.address for host in cluster.tier("db")),
            "PORT": str(cluster.settings.db.port),
            "NAME": site.database,
            "USER": site.database,
            "PASSWORD": password,
        },
        "database_options": database_options(cluster),
        "replica_alias": settings.replica_alias,
        # Without the alias the settings of all web hosts are the same.
        "replica_host": ",".join(replica_hosts(cluster, host)) if settings.replica_alias else "",
        # The same order on all web hosts: it decides which host has which key.
        "cache_location": [
            f"{host.address}:{cluster.settings.cache.port}" for host in cluster.tier("cache")
        ],
        "cache_options": CACHE_OPTIONS,
        "cache_prefix": site.name,
        "secret_key": secret_key,
        "domains": domains,
        "origins": origins(cluster, site),
        "hashed_static": settings.hashed_static,
        # None where a proxy in front may serve it: that is for the site to say.
        "https": balancer.https or (None if serves_https(cluster) else False),
        "needs_https": NEEDS_HTTPS,
        "hsts_s": balancer.hsts_s,
        "static_url": settings.static_url,
        "static_root": release.static,
        "media_url": settings.media_url,
        "media_root": site.media_root,
    }
    return template(
        "web/etc/tierstack/sites/site/tierstack_settings.py.j2",
        name=site.name,
        module=settings.settings,
        advice=ADVICE,
        requirements=settings.requirements.replace("\\", "\\\\").replace('"', '\\"'),
        **{name: repr(value) for name, value in values.items()},
    )


def wsgi_module(cluster: Cluster, host: Host, site: Site, release: Release) -> bytes:
    """Return `tierstack_wsgi.py`."""
    values = {
        "node": host.name,
        "release": release.id,
        "upload_bytes": upload_bytes(cluster),
        "health_path": HEALTH_PATH,
        "workers_directory": WORKERS_DIRECTORY,
        "drained_by": DRAINED_BY,
        "door": DOOR,
        "room": ROOM,
        "forwarders": forwarders(cluster, host),
        "forwarded": f"HTTP_({'|'.join([*ADDRESS_HEADERS, *PROXY_HEADERS])})".upper().replace(
            "-", "_"
        ),
        "site_packages": release.site_packages,
        "python": f"{release.venv}/bin/python",
        "project": release.project(site),
    }
    return template(
        "web/etc/tierstack/sites/site/tierstack_wsgi.py.j2",
        **{name: repr(value) for name, value in values.items()},
    )


def forwarders(cluster: Cluster, host: Host) -> list[str]:
    """
    Return who is believed when it says on whose behalf it asks.

    The balancers, and `web-node` on the host itself, which looks at pages as they would.
    """
    balancers = [balancer.address for balancer in cluster.tier("balancer")]
    return list(dict.fromkeys([*balancers, host.address, WEB_NODE]))


def manage_program(site: Site, release: Release, folder: str) -> bytes:
    """Return the shell script that runs a management command with the settings of a directory."""
    path = [folder, release.project(site), release.source]
    return template(
        "web/etc/tierstack/sites/site/manage.j2",
        home=shlex.quote(site.home),
        python_path=shlex.quote(":".join(dict.fromkeys(path))),
        project=shlex.quote(release.project(site)),
        python=shlex.quote(f"{release.venv}/bin/python"),
        program=shlex.quote(f"{folder}/tierstack_manage.py"),
    )


def upload_bytes(cluster: Cluster) -> int:
    """Return the largest request body, in bytes."""
    return cluster.settings.web.upload_mb * 1024 * 1024
