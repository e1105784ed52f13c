"""The release of a site and the settings that belong to it, laid out beside what serves."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Sequence
from functools import partial

import pyinfra
from gevent.lock import RLock

from roles.web.settings import (
    manage_program,
    settings_module,
    wsgi_module,
)
from tierstack.model import Cluster, Host, Site
from tierstack.model.release import Release, Source, pack, release_of
from tierstack.model.sizing import pool_budget
from tierstack.model.source import sentences
from tierstack.operations.config import (
    Directory,
    Entry,
    File,
    agent,
    agent_module,
    config,
    template,
)
from tierstack.operations.release import Layout, same_packages
from tierstack.operations.release import release as release_operation
from tierstack.secrets import Secrets

PROGRAMS = "/usr/local/lib/tierstack"

_sources: dict[str, Source] = {}
_lock = RLock()


def release(cluster: Cluster, site: Site) -> Release:
    """Return the release of a site that this run deploys: `.id`, `.path`, `.static`."""
    return release_of(site, _source(site))


def _source(site: Site) -> Source:
    with _lock:
        if site.name not in _sources:
            found = pack(site.source, site.settings.include)
            for sentence in sentences(site, found.contents):
                pyinfra.logger.info(sentence)
            _sources[site.name] = found
        return _sources[site.name]


def _archive(site: Site) -> bytes:
    return _source(site).archive


def lay_out(cluster: Cluster, host: Host, secrets: Secrets) -> None:
    """Put source, venv, static files and settings of every site in place; nothing serves them yet."""
    config(
        name="Settings of the sites are in place, beside those that serve",
        stamp="web-sites",
        entries=[
            *_programs(cluster),
            File("/etc/tierstack/cluster-ca.pem", secrets["cluster.ca_certificate"].encode()),
            Directory("/etc/tierstack/sites"),
            # What lies in a release is nobody else's to read, though some of it is for all.
            *(
                Directory(f"{site.home}/releases", mode="750", group=site.account)
                for site in cluster.sites
            ),
            *([] if cluster.tier("media") else _files_of_its_own(cluster)),
            *(e for site in cluster.sites for e in _settings_entries(cluster, host, site, secrets)),
        ],
    )
    for site in pyinfra.host.loop(cluster.sites):
        this = release(cluster, site)
        layout = _layout(cluster, host, site, secrets)
        release_operation(
            name=f"Release {this.id} of {site.name} is laid out and starts", layout=layout
        )
        same_packages(
            name=f"Release {this.id} of {site.name} has the same packages everywhere", layout=layout
        )


def _layout(cluster: Cluster, host: Host, site: Site, secrets: Secrets) -> Layout:
    requirements = site.source / site.settings.requirements
    text = requirements.read_text(encoding="utf-8", errors="replace")
    return Layout(
        site=site.name,
        account=site.account,
        current=f"{site.home}/current",
        path=release(cluster, site).path,
        requirements=site.settings.requirements,
        requirements_hash=hashlib.sha256(text.encode()).hexdigest(),
        config_path=config_path(cluster, host, site, secrets),
        module=site.settings.settings,
        hosts=[web.name for web in cluster.tier("web")],
        local_caches=site.settings.local_caches,
        project=release(cluster, site).project(site),
        commands=[shlex.split(command) for command in site.settings.build],
        build_s=site.settings.build_s,
        pool=pool_budget(cluster, site),
        archive=partial(_archive, site),
    )


def _files_of_its_own(cluster: Cluster) -> Sequence[Entry]:
    """Return where uploads and static files lie on a web host that has no media host beside it."""
    return [
        directory
        for site in cluster.sites
        for directory in (
            Directory(site.media_root, mode="2755", owner=site.account, group=site.account),
            Directory(site.static_root),
        )
    ]


def _programs(cluster: Cluster) -> Sequence[Entry]:
    names = [site.name for site in cluster.sites]
    manage = template("web/usr/local/bin/tierstack-manage.j2", sites=names)
    return [
        Directory(PROGRAMS),
        *(
            File(f"{PROGRAMS}/{name}", template(f"web{PROGRAMS}/{name}.j2"), mode="755")
            for name in ("web-node", "web-pause")
        ),
        File(f"{PROGRAMS}/web-release", agent("web_release"), mode="755"),
        File(f"{PROGRAMS}/web-state", agent("web_state"), mode="755"),
        File("/usr/local/bin/tierstack-manage", manage, mode="755"),
    ]


def _modules(
    cluster: Cluster, host: Host, site: Site, secrets: Secrets, folder: str
) -> dict[str, bytes]:
    this = release(cluster, site)
    return {
        "tierstack_settings.py": settings_module(cluster, host, site, this, secrets),
        "tierstack_wsgi.py": wsgi_module(cluster, host, site, this),
        "tierstack_manage.py": agent_module("manage"),
        # Beside it, since an old worker must not import new code.
        "tierstack_node.py": agent_module("node"),
        "tierstack_mod_python.py": agent_module("mod_python"),
        "manage": manage_program(site, this, folder),
    }


def config_path(cluster: Cluster, host: Host, site: Site, secrets: Secrets) -> str:
    """
    Return the directory of the settings that belong to this run's release.

    Each state of them has a directory of its own, named by what is in it: the settings that serve
    stay as they are until Apache is told of the new ones, and are there to go back to.
    """
    modules = _modules(cluster, host, site, secrets, "")
    digest = hashlib.sha256(b"\0".join(modules.values())).hexdigest()[:8]
    return f"{site.config}/{release(cluster, site).id}-{digest}"


def _settings_entries(
    cluster: Cluster, host: Host, site: Site, secrets: Secrets
) -> Sequence[Entry]:
    folder = config_path(cluster, host, site, secrets)
    modules = _modules(cluster, host, site, secrets, folder)
    return [
        Directory(site.config, mode="750", group=site.account),
        Directory(folder, mode="750", group=site.account),
        *(
            File(
                f"{folder}/{name}",
                content,
                mode="750" if name == "manage" else "640",
                group=site.account,
            )
            for name, content in modules.items()
        ),
    ]
