"""The site on the web hosts: its release, its settings on this cluster, its migrations, its server."""

from __future__ import annotations

from collections.abc import Callable

from roles import share
from roles.web import mod_python
from roles.web.health import HEALTH_PATH, Health
from roles.web.migrations import migrate
from roles.web.release import lay_out, release
from tierstack.model import Cluster, Host
from tierstack.secrets import Secrets

__all__ = ["HEALTH_PATH", "answers", "deploy", "migrate", "prepare", "release"]

#: What may serve the sites of a cluster, and the function of each that makes it do so.
ENGINES = {"mod_python": mod_python.serve}


def prepare(cluster: Cluster, host: Host, secrets: Secrets) -> None:
    """Bring the site's code and uploads to a web host; what serves is not touched."""
    share.mount(cluster, host, secrets)
    lay_out(cluster, host, secrets)


def deploy(cluster: Cluster, host: Host, secrets: Secrets) -> None:
    """Serve the release: one host after the other, each out of rotation while it changes."""
    ENGINES[cluster.sites[0].settings.engine](cluster, host, secrets)


def answers(cluster: Cluster, host: Host) -> Callable[[], str] | None:
    """Return a check for the gate: None where there is nothing to ask."""
    if "web" not in host.tiers:
        return None
    health = Health(host.address, cluster.settings.web.port)
    mounts = [site.media_root for site in cluster.sites if cluster.mounts_share(host)]

    def check() -> str:
        return health.missing() or share.not_mounted(mounts)

    return check
