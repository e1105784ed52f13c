"""Where MEDIA_ROOT lies: decided from what the hosts hold, never from the inventory alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tierstack.model.cluster import Cluster, Site
from tierstack.model.errors import TierstackError
from tierstack.model.plan import listed
from tierstack.model.shell import quoted

#: A file for each site: what its MEDIA_ROOT is on that host, and which directory that was.
NOTES = "/var/lib/tierstack/uploads"

#: What sends copies on the home, and what takes one.
COPY_UNITS = {"home": "tierstack-copies", "copy": "tierstack-copy"}


#: Birth and inode of a directory, as `stat -c '%.9W %i'` says them, to what is noted of it: the birth, or
#: the inode where the file system knows no birth.
IDENTITY = "sed 's/^[0.]* //; s/ .*//'"


class MediaHomeError(TierstackError, ValueError):
    """Where MEDIA_ROOT lies cannot be told; nothing may be touched."""


@dataclass(frozen=True)
class MediaRoot:
    """
    What a host holds of a site's MEDIA_ROOT, and where it looks for it; a mount was asked nothing.

    Args:
        mark: what the directory on its own disk is noted as: "home", "copy", "leaving" (a move was cut
            off), or "", also if another one is there now.
        files: whether its own disk holds files there.
        noted: it has been the home before, whatever is there now.
        source: address of the host that it mounts MEDIA_ROOT from; "" if it does not.
        old: an earlier version has marked it, in MEDIA_ROOT.
    """

    mark: str = ""
    files: bool = False
    noted: bool = False
    source: str = ""
    old: bool = False


_Found = Mapping[str, MediaRoot]


def is_noted(site: Site, *roles: str) -> str:
    """Return a shell command that succeeds where a site's MEDIA_ROOT is there, as one of these."""
    directory = f"$(stat -L -c '%.9W %i' {site.media_root} | {IDENTITY})"
    return f'grep -qxE "({"|".join(roles)}) {directory}" {NOTES}/{site.name}'


def decide_home(cluster: Cluster, found: _Found, path: str, chosen: str = "") -> str:
    """
    Return the name of the host that MEDIA_ROOT lies on, or that gets it on an empty cluster.

    Args:
        cluster: the inventory.
        found: what each host holds that was asked, by host name.
        path: MEDIA_ROOT.
        chosen: the host that has the uploads that count, in the user's words; "" if they say nothing.

    Raises:
        MediaHomeError: it cannot be told, or the inventory has no place for it there; with the way out.

    Source: design, "Data is sacred": the first line only decides on an empty cluster.
    """
    _refuse_cut_off(cluster, found)
    if chosen:
        return _chosen(cluster, found, path, chosen)
    name = _known_home(cluster, found, path)
    if name is None:
        return _first(cluster, found, path)
    if cluster.host(name) not in cluster.home_candidates:
        tier = _tier(cluster)
        raise MediaHomeError(
            f"MEDIA_ROOT {path} lies on {name}, which is no {tier} host of this inventory, and would be"
            f" out of sight; nothing was changed. Type: {_move(cluster, cluster.home_candidates[0].name)};"
            " then deploy again"
        )
    return name


def decide_source(cluster: Cluster, found: _Found, path: str, target: str) -> str:
    """
    Return the name of the host that a move takes MEDIA_ROOT from; `target` itself if it is there already.

    Where two homes have gone apart, `target` keeps what it has, and gets what the other one has besides.

    Args:
        cluster: the inventory.
        found: what each host holds, by host name.
        path: MEDIA_ROOT.
        target: name of the host that it moves to.

    Raises:
        MediaHomeError: it cannot be told, with the way out.
    """
    leaving = [name for name, held in found.items() if held.mark == "leaving"]
    homes = [name for name, held in found.items() if held.mark == "home"]
    if leaving and not homes:
        if len(leaving) > 1:
            raise MediaHomeError(_several(cluster, leaving, path))
        return leaving[0]
    if target in homes and len(homes) > 1:
        return next(name for name in homes if name != target)
    name = _known_home(cluster, found, path)
    return _first(cluster, found, path) if name is None else name


def _known_home(cluster: Cluster, found: _Found, path: str) -> str | None:
    """Return the host that has MEDIA_ROOT, by marks, by mounts, by files; None on an empty cluster."""
    homes = [name for name, held in found.items() if held.mark == "home"]
    if len(homes) > 1:
        raise MediaHomeError(_several(cluster, homes, path))
    if homes:
        return homes[0]
    copies = [name for name, held in found.items() if held.mark == "copy"]
    _refuse_missing([name for name, held in found.items() if held.noted], path)
    sources = sorted({held.source for held in found.values() if held.source})
    if len(sources) > 1:
        raise MediaHomeError(
            f"MEDIA_ROOT {path} is mounted from {listed(sources)} by different hosts; nothing was changed."
            f" Find out which one has the uploads that you keep, and add {_choose('HOST')} to the deploy"
        )
    if sources:
        names = [host.name for host in cluster.hosts if host.address == sources[0]]
        if not names:
            raise MediaHomeError(_gone(cluster, sources[0], copies, path))
        return names[0]
    # Files of before there were marks; on a host that may not have them they would be out of sight.
    holders = [name for name, held in found.items() if held.files and not held.mark]
    first = cluster.home_candidates[0].name
    if first in holders:
        return first
    if len(holders) > 1:
        raise MediaHomeError(
            f"{listed(holders)} each hold files in {path}; nothing was changed. Find out which ones you"
            f" keep, and add {_choose('HOST')} to the deploy"
        )
    if holders:
        return holders[0]
    if copies and all(host.name in found for host in cluster.hosts):
        raise MediaHomeError(
            f"{listed(copies)} {'keeps a copy' if len(copies) == 1 else 'keep copies'} of MEDIA_ROOT {path},"
            " and the host that it was copied from is not in this inventory; nothing was changed. Put its"
            f" line back; {_lost(cluster, copies, path)}"
        )
    return None


def _chosen(cluster: Cluster, found: _Found, path: str, name: str) -> str:
    """Return the host that somebody says has the uploads, unless another one is known to have them."""
    names = [host.name for host in cluster.home_candidates]
    if name not in names:
        raise MediaHomeError(
            f'"{name}" cannot have MEDIA_ROOT {path}; nothing was changed. Write'
            f" {_choose('HOST')} with one of {', '.join(names)}"
        )
    if missing := [other for other in names if other not in found]:
        raise MediaHomeError(
            f"{missing[0]} may have MEDIA_ROOT {path}, and has no part in this run; nothing was changed."
            f" Run it without --limit"
        )
    homes = [other for other, held in found.items() if held.mark == "home"]
    if len(homes) > 1:
        raise MediaHomeError(_several(cluster, homes, path))
    if homes and homes != [name]:
        raise MediaHomeError(
            f"MEDIA_ROOT {path} lies on {homes[0]}, and nothing is missing there; nothing was changed. To"
            f" have it on {name}, type: {_move(cluster, name)}; then deploy again"
        )
    return name


def _first(cluster: Cluster, found: _Found, path: str) -> str:
    """Return the first candidate; only where no host that was not asked may know better."""
    asked = [cluster.host(name) for name in found]
    matters = any({"web", "media", "storage", "balancer"} & set(host.tiers) for host in asked)
    others = [host.name for host in cluster.home_candidates if host.name not in found]
    if others and matters and len(cluster.home_candidates) > 1:
        raise MediaHomeError(
            f"on which host MEDIA_ROOT {path} lies cannot be told without {listed(others)}, not asked in"
            f" this run; nothing was changed. Run it without --limit, or with"
            f" {' '.join(f'--limit {name}' for name in others)} as well"
        )
    return cluster.home_candidates[0].name


def _refuse_cut_off(cluster: Cluster, found: _Found) -> None:
    leaving = [name for name, held in found.items() if held.mark == "leaving"]
    if leaving and not any(held.mark == "home" for held in found.values()):
        raise MediaHomeError(
            f"a move of MEDIA_ROOT away from {listed(leaving)} was cut off, and uploads wait for its end;"
            f" nothing was changed. Type: {_move(cluster, 'HOST')}, with the same HOST as before"
        )


def _refuse_missing(noted: Sequence[str], path: str) -> None:
    if noted:
        raise MediaHomeError(
            f"MEDIA_ROOT {path} lies on {listed(noted)}, and another directory is there now; nothing was"
            " changed. Mount its disk; or, if nothing is missing there, add"
            f" {_choose(noted[0] if len(noted) == 1 else 'HOST')} to the deploy"
        )


def _several(cluster: Cluster, names: Sequence[str], path: str) -> str:
    return (
        f"{listed(names)} {'both' if len(names) == 2 else 'all'} say that they have MEDIA_ROOT {path};"
        f" nothing was changed. Type: {_move(cluster, 'HOST')}, with the one that shall have it: it gets"
        " what only the other has, keeps its own where both have a file of one name, and each such file"
        " that differs is named; then deploy again"
    )


def _gone(cluster: Cluster, address: str, copies: Sequence[str], path: str) -> str:
    return (
        f"MEDIA_ROOT {path} lies on {address}, which is no host of this inventory; nothing was changed."
        " Put its line back, and to have it elsewhere, move it first (docs/moving.md);"
        f" {_lost(cluster, copies, path)}"
    )


def _lost(cluster: Cluster, copies: Sequence[str], path: str) -> str:
    if not copies:
        first = cluster.home_candidates[0].name
        return (
            f"or, if it is lost for good, put what you have of it into {path} on {first}, and add"
            f" {_choose(first)} to the deploy"
        )
    if len(copies) == 1:
        return f"or, if it is lost for good, add {_choose(copies[0])} to the deploy"
    return (
        f"or, if it is lost for good, add {_choose('HOST')} to the deploy, with the one of"
        f" {listed(copies)} that has the newest files"
    )


def _choose(name: str) -> str:
    return f"--data media_home={name}"


def _tier(cluster: Cluster) -> str:
    return next(tier for tier in ("storage", "media", "web") if cluster.tier(tier))


def _move(cluster: Cluster, to: str) -> str:
    return f"pyinfra {quoted(cluster.inventory)} tasks/move_media.py --data to={to}"
