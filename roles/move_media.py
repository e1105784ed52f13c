"""MEDIA_ROOT moves to another host: who it comes from, what the two need, and who mounts it then."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pyinfra
from pyinfra.api.exceptions import PyinfraError

from roles import base, copies, share
from tierstack import hosts
from tierstack.inventory import checked_cluster
from tierstack.model import Cluster, Flow, Host
from tierstack.model.media_home import MediaRoot, decide_source
from tierstack.model.plan import listed
from tierstack.operations.config import applied
from tierstack.operations.move_media import Way
from tierstack.secrets import Secrets

_sources: dict[str, str] = {}


def cluster_afterwards() -> Cluster:
    """
    Return the cluster with MEDIA_ROOT on the host that `--data to=…` names.

    Raises:
        PyinfraError: it names none that may have it, or not all hosts take part; nothing was changed.
    """
    declared = checked_cluster()
    names = [host.name for host in declared.home_candidates]
    to = pyinfra.host.data.get("to")
    if to not in names:
        said = f'"{to}" cannot have MEDIA_ROOT' if to else "no host is named"
        raise PyinfraError(f"{said}; add --data to=HOST, one of {', '.join(names)}")
    missing = [host.name for host in declared.hosts if not hosts.in_this_run(host.name)]
    if missing:
        raise PyinfraError(f"{missing[0]} has no part in this run; run it without --limit")

    def decide(cluster: Cluster, found: Mapping[str, MediaRoot], path: str, _: str) -> str:
        _sources[path] = decide_source(cluster, found, path, to)
        return str(to)

    found = hosts.surveyed_cluster(_packages, decide, with_secrets=True)
    if found.leaving:
        left = listed([site.name for site in found.leaving])
        raise PyinfraError(
            f"{left} has not left yet: deploy first, with the word for it; nothing was changed"
        )
    if source(found) != found.media_home and _mounts(found.media_home):
        raise PyinfraError(
            f"{to} mounts MEDIA_ROOT itself, and would have to serve without it while it is copied;"
            " name a host that does not; nothing was changed"
        )
    return _with_way(found, source(found))


def source(cluster: Cluster) -> Host:
    """Return the host that has MEDIA_ROOT now; the new home itself where it is there already."""
    return cluster.host(_sources[cluster.sites[0].media_root])


def prepare(cluster: Cluster, host: Host, secrets: Secrets) -> None:
    """Have the new home take a copy and export it; on the old one, mark what counts; ready new mounts."""
    old = source(cluster)
    if host == old != cluster.media_home:
        copies.mark_old_home(cluster, host)
    if host == cluster.media_home != old:
        others = [node for node in cluster.tier("media") if node not in (host, old)]
        senders = [old] if _merges(cluster) else [old, *others]
        copies.receive(cluster, host, secrets, senders, part="home" if _merges(cluster) else "copy")
    if cluster.mounts_share(host) and not _mounts(host):
        share.prepare_mount(cluster, host, secrets)
    if host == cluster.exporter:
        share.export(cluster, host, secrets, everyone=True)


def way(cluster: Cluster, secrets: Secrets) -> Way:
    """Return how MEDIA_ROOT goes to its new home."""
    old, new = source(cluster), cluster.media_home
    exports = cluster.exporter is not None and "share-export" in hosts.facts(old.name)["stamps"]
    sends = "copies" in hosts.facts(old.name)["stamps"]
    shut = [share.stop_export(cluster)] if exports else []
    reopen = [share.start_export(cluster)] if exports else []
    if sends:
        shut.insert(0, f"systemctl stop {copies.SENDER}")
        reopen.append(f"systemctl start {copies.SENDER}")
    return Way(
        source=old,
        target=new,
        url=f"rsync://{copies.USER}@{new.address}:{cluster.settings.media.copy_port}",
        password=secrets["share.copy_password"],
        shut=" && ".join(shut),
        reopen="; ".join(reopen),
        writers=[node.name for node in cluster.tier("web") if _mounts(node)],
        unmount=share.stop_mount(cluster),
        remount=share.start_mount(cluster),
        mounts={
            host.name: applied(
                share.mount_entries(cluster, host, secrets),
                share.mount_units(cluster),
                share.MOUNT_STAMP,
            )
            for host in cluster.hosts
            if cluster.mounts_share(host) and (not _merges(cluster) or host.name in late(cluster))
        },
        merges=_merges(cluster),
        keeps=old in cluster.copies,
        leaves=[
            host.name
            for host in cluster.hosts
            if host not in (new, *cluster.copies) and _holds(cluster, host)
        ],
    )


def serves_already(cluster: Cluster) -> bool:
    """
    Return whether all media hosts serve, and the old home is one of them.

    Then they and the balancers are told at once; else the next deploy does it, with all that a media
    host needs besides.
    """
    served = all("media" in hosts.facts(node.name)["stamps"] for node in cluster.tier("media"))
    return served and bool(cluster.copies) and "media" in source(cluster).tiers


def late(cluster: Cluster) -> list[str]:
    """Return the hosts that mount MEDIA_ROOT from elsewhere than its new home."""
    home = cluster.media_home.address
    return [
        host.name
        for host in cluster.hosts
        if cluster.mounts_share(host)
        and any(
            hosts.facts(host.name)["media"][site.name]["source"] != home for site in cluster.sites
        )
    ]


def _merges(cluster: Cluster) -> bool:
    """Return whether the new home has had uploads, too, when the run began."""
    said = hosts.facts(cluster.media_home.name)["media"]
    return source(cluster) != cluster.media_home and any(
        said[site.name]["mark"] == "home" for site in cluster.sites
    )


def _holds(cluster: Cluster, host: Host) -> bool:
    """Return whether a host's own disk had something in MEDIA_ROOT when the run began."""
    said = hosts.facts(host.name)["media"]
    return any(said[site.name]["mark"] or said[site.name]["files"] for site in cluster.sites)


def _mounts(host: Host) -> bool:
    """Return whether a host had MEDIA_ROOT from another one when the run began."""
    return any(said["source"] for said in hosts.facts(host.name)["media"].values())


def _packages(cluster: Cluster, host: Host, container: bool) -> list[str]:
    # Who has the files is known once all were asked.
    return sorted({*base.needed_packages(cluster, host, container), "rsync"})


def _with_way(cluster: Cluster, old: Host) -> Cluster:
    """Return the cluster with a way for the files, from any host of the old home's tier; a deploy shuts it."""
    port = cluster.settings.media.copy_port
    target = next(tier for tier in ("storage", "media", "web") if cluster.tier(tier))
    if old == cluster.media_home or old.address in cluster.allowed_sources(target, port):
        return cluster
    flow = Flow(old.tiers[-1], target, port, "uploads that move", clear_text=True)
    return replace(cluster, flows=(*cluster.flows, flow))
