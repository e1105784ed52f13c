"""Sites that have left the inventory: taken away at the end of a good run, when others serve."""

from __future__ import annotations

from roles import base, media, share
from tierstack.model import Cluster, Host
from tierstack.operations.dropped import dropped
from tierstack.secrets import Secrets


def unmount(cluster: Cluster, host: Host) -> None:
    """Mount MEDIA_ROOT of these sites no more."""
    if cluster.mounts_share(host):
        dropped(
            name="MEDIA_ROOT of sites that left is not mounted any more",
            units=[share.unit_name(site) for site in cluster.leaving],
        )


def drop(cluster: Cluster, host: Host, secrets: Secrets) -> None:
    """Export and serve files of these sites no more; the files stay."""
    remaining = cluster.without_leaving()
    base.settle(remaining, host)
    if host == cluster.exporter:
        share.export(remaining, host, secrets, everyone=True)
    if "media" in host.tiers:
        media.deploy(remaining, host, secrets)


def what_stays(cluster: Cluster) -> str:
    """Return in a sentence which data of these sites is left where."""
    home = cluster.media_home.name
    return "; ".join(
        f"Site {site.name} has left; its database {site.database}, and its files in {site.media_root} on"
        f" {home}, stay"
        for site in cluster.leaving
    )
