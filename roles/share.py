"""MEDIA_ROOT lies on one host, and the hosts that need it mount it from there, over NFS or sshfs.

Two ends: `export` where the files are, `mount` where they are used. A dead server makes file
operations fail within a few seconds; nothing waits for it, and the mount comes back with it.

Source: chapter, "Use a separate media server".
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from itertools import zip_longest
from typing import Any

import pyinfra
from pyinfra.api.facts import FactBase

from tierstack import hosts
from tierstack.model import Cluster, Host, Site
from tierstack.operations.config import Absent, Directory, Entry, File, Link, Unit, config, template
from tierstack.operations.retired import sessions_ended
from tierstack.secrets import Secrets, ssh_public_key

#: `softerr`: an operation fails instead of waiting for ever; `timeo` is in tenths of a second.
#: `sync`: write() itself reports the failure. Source: nfs(5).
NFS_OPTIONS = "vers=4.2,softerr,timeo=10,retrans=2,sync,nosuid,nodev,noexec"

#: `dir_cache=no`: what one web host uploads, the others see. Source: sshfs(1).
SSHFS_OPTIONS = "allow_other,default_permissions,nosuid,nodev,noexec,dir_cache=no"

#: What the services that mount have loaded is noted under this name.
MOUNT_STAMP = "share"

#: Names the host that MEDIA_ROOT is mounted from.
_SERVER = "/etc/tierstack/share_server"

#: Takes an NFS mount away whose server is silent.
_WATCH = "/usr/local/lib/tierstack/share-watch"

#: What sshfs connects with.
_KEY, _KNOWN, _SSH_CONFIG = _SSHFS_CLIENT = (
    "/etc/tierstack/share_client_key",
    "/etc/tierstack/share_known_hosts",
    "/etc/tierstack/share_ssh_config",
)

#: NFSv4 needs no port mapper and no lock daemon; Debian's packages start both at boot.
_UNUSED_BY_NFS4 = ("rpcbind.service", "rpcbind.socket", "rpc-statd.service")

#: The SSH server that shows MEDIA_ROOT and nothing else.
_SSHFS_EXPORT = "tierstack-share.service"

_EXPORTS = "/etc/exports.d/tierstack.exports"

#: Where no NFS server is installed, there is nothing to take back.
_REREAD_EXPORTS = "if command -v exportfs >/dev/null; then exportfs -ra; fi"


def export(cluster: Cluster, host: Host, secrets: Secrets, *, everyone: bool) -> None:
    """
    Let the hosts that need it, and nobody else, mount MEDIA_ROOT of each site.

    Args:
        cluster: the cluster.
        host: the exporter.
        secrets: those of the cluster.
        everyone: whether all hosts take part in the run. Only then have the balancers dropped web
            nodes that left the inventory; until then these go on taking uploads.
    """
    clients = _clients(cluster)
    if not everyone:
        clients = {**hosts.facts(host.name)["share_clients"], **clients}
    directories: list[Entry] = []
    for site in cluster.known_sites:
        directories += [
            Directory(site.home),
            # Set-group-ID: what somebody else puts in still belongs to the site's group.
            Directory(site.media_root, mode="2755", owner=site.account, group=site.account),
        ]
    if cluster.settings.media.share == "nfs":
        config(
            name="MEDIA_ROOT is exported over NFS",
            stamp="share-export",
            entries=[
                *directories,
                *_masked(_UNUSED_BY_NFS4),
                *_gone(_SSHFS_EXPORT),
                File(
                    "/etc/nfs.conf.d/tierstack.conf",
                    template("storage/etc/nfs.conf.d/tierstack.conf.j2", address=host.address),
                    needs="restart",
                ),
                File(
                    _EXPORTS,
                    template(
                        "storage/etc/exports.d/tierstack.exports.j2",
                        sites=cluster.known_sites,
                        clients=clients.items(),
                    ),
                ),
            ],
            then=_stopped([*_UNUSED_BY_NFS4, _SSHFS_EXPORT]),
            units=[Unit("nfs-server.service", reload="exportfs -ra")],
        )
        return
    config(
        name="MEDIA_ROOT is exported over sshfs",
        stamp="share-export",
        entries=[
            *directories,
            Absent(_EXPORTS),
            File(
                "/etc/tierstack/share_host_key",
                _key(secrets[f"share.{host.name}_host_key"]),
                mode="600",
            ),
            # sshd reads it at each login.
            File(
                "/etc/tierstack/share_authorized_keys",
                template(
                    "storage/etc/tierstack/share_authorized_keys.j2",
                    sources=list(clients),
                    public_key=ssh_public_key(secrets["share.client_key"]),
                ),
            ),
            File(
                "/etc/tierstack/share_sshd_config",
                template(
                    "storage/etc/tierstack/share_sshd_config.j2",
                    address=host.address,
                    port=cluster.settings.media.sshfs_port,
                    sites=cluster.known_sites,
                ),
            ),
            File(
                f"/etc/systemd/system/{_SSHFS_EXPORT}",
                template("storage/etc/systemd/system/tierstack-share.service.j2"),
                needs="restart",
            ),
            File(
                f"/etc/systemd/system/{_SSHFS_EXPORT}.d/sites.conf",
                template(
                    "storage/etc/systemd/system/tierstack-share.service.d/sites.conf.j2",
                    accounts=[site.account for site in cluster.known_sites],
                    paths=[site.media_root for site in cluster.known_sites],
                ),
            ),
        ],
        # In place, not staged: sshd also judges the key that the file names, and its mode.
        check="mkdir -p /run/sshd && sshd -t -f /etc/tierstack/share_sshd_config",
        then=_REREAD_EXPORTS,
        units=[Unit(_SSHFS_EXPORT, reload=_reload_sshfs_export(cluster))],
    )


def _reload_sshfs_export(cluster: Cluster) -> str:
    """
    Return a shell command that has the running service show a site more, or one less.

    A restart would end all mounts, and fail uploads until they are there again. Source:
    systemctl(1), bind.
    """
    seen = f"/proc/$(systemctl show -P MainPID {_SSHFS_EXPORT})/mountinfo"
    steps = [
        f"usermod -p '*' {site.account} && {{ grep -q ' {site.media_root} ' {seen}"
        f" || systemctl bind --mkdir {_SSHFS_EXPORT} {site.media_root}; }}"
        for site in cluster.known_sites
    ]
    return " && ".join([*steps, f"systemctl reload {_SSHFS_EXPORT}"])


def close(cluster: Cluster, host: Host) -> None:
    """Take back, at the end of a good run, what a host exported that does not any more, and to whom."""
    if host == cluster.exporter and cluster.settings.media.share == "sshfs":
        # sshd asks for the address at the log-in alone. NFS asks with each request.
        peers = set(hosts.facts(host.name)["share_peers"]) - _clients(cluster).keys()
        if peers:
            sessions_ended(
                name="Nobody else has MEDIA_ROOT mounted",
                peers=sorted(peers),
                port=cluster.settings.media.share_port,
            )
    if host != cluster.exporter and "share-export" in hosts.facts(host.name)["stamps"]:
        config(
            name="MEDIA_ROOT is exported by another host alone",
            stamp="share-export",
            entries=[Absent(_EXPORTS), *_gone(_SSHFS_EXPORT)],
            then=f"{_stopped([_SSHFS_EXPORT])}; {_REREAD_EXPORTS}",
        )


def leave(cluster: Cluster, host: Host) -> None:
    """On a host that mounts MEDIA_ROOT no more, take the mount away, and the key that it logs in with."""
    if cluster.mounts_share(host) or MOUNT_STAMP not in hosts.facts(host.name)["stamps"]:
        return
    units = [unit_name(site) for site in cluster.known_sites]
    config(
        name="MEDIA_ROOT is mounted here no more",
        stamp=MOUNT_STAMP,
        entries=[
            *_gone(*units),
            *(Absent(path) for path in (_SERVER, _WATCH, *_SSHFS_CLIENT)),
        ],
        then=_stopped(units),
    )


def stop_export(cluster: Cluster) -> str:
    """Return a shell command that shuts MEDIA_ROOT to other hosts, until `start_export`."""
    return f"systemctl stop {_export_unit(cluster)}"


def start_export(cluster: Cluster) -> str:
    """Return a shell command that opens it again."""
    return f"systemctl start {_export_unit(cluster)}"


def _export_unit(cluster: Cluster) -> str:
    return "nfs-server.service" if cluster.settings.media.share == "nfs" else _SSHFS_EXPORT


def stop_mount(cluster: Cluster) -> str:
    """Return a shell command that takes MEDIA_ROOT away from a host that mounts it, until `start_mount`."""
    return f"systemctl stop {_mount_unit_names(cluster)}"


def start_mount(cluster: Cluster) -> str:
    """Return a shell command that mounts it again, or tries to until its server answers."""
    return f"systemctl start {_mount_unit_names(cluster)}"


def _mount_unit_names(cluster: Cluster) -> str:
    return " ".join(unit.name for unit in mount_units(cluster))


def answers(cluster: Cluster, host: Host) -> Callable[[], str] | None:
    """
    Return a check for the gate: None where nothing is exported, nor mounted from another host yet.

    A host that is to mount MEDIA_ROOT from elsewhere asks, too: either all of them can, or none does,
    and no two write to different hosts.
    """
    if host != cluster.exporter and not _changes_server(cluster, host):
        return None

    def check() -> str:
        address, share_port = cluster.media_home.address, cluster.settings.media.share_port
        if pyinfra.host.get_fact(Answers, address=address, port=share_port):
            return ""
        return f"the share of MEDIA_ROOT does not answer on {address}:{share_port}"

    return check


def _changes_server(cluster: Cluster, host: Host) -> bool:
    """Return whether a host mounted MEDIA_ROOT from another host when the run began."""
    if not cluster.mounts_share(host):
        return False
    sources = {said["source"] for said in hosts.facts(host.name)["media"].values()}
    return bool(sources - {"", cluster.media_home.address})


class Answers(FactBase[bool]):
    """Whether a port of the host takes connections, asked by the host itself."""

    def command(self, address: str, port: int) -> str:
        ask = f'socket.create_connection(("{address}", {port}), 3).close()'
        return f"python3 -c 'import socket; {ask}' 2>/dev/null && echo yes || echo no"

    def process(self, output: list[str]) -> bool:
        return output[-1] == "yes"


def _clients(cluster: Cluster) -> dict[str, str]:
    """Return who may mount MEDIA_ROOT: addresses, each with "rw", or "ro" where files are only served."""
    return {
        host.address: "rw" if "web" in host.tiers else "ro"
        for host in cluster.hosts
        if cluster.mounts_share(host)
    }


class FileSystems(FactBase[list[str]]):
    """The kind of file system of each path; "" for one that gives no answer within seconds."""

    def command(self, paths: list[str]) -> str:
        # In a process that may be killed: a look at a dead mount waits for it.
        return "; ".join(
            f"timeout -s KILL 5 stat -f -c %T {shlex.quote(path)} 2>/dev/null || echo"
            for path in paths
        )

    def process(self, output: list[str]) -> list[str]:
        return output


def not_mounted(paths: list[str]) -> str:
    """Return what is missing until these directories are mounts that answer, or ""."""
    if not paths:
        return ""
    kinds = pyinfra.host.get_fact(FileSystems, paths=paths) or []
    for path, kind in zip_longest(paths, kinds, fillvalue=""):
        if kind not in ("nfs", "nfs4", "fuse", "fuseblk"):
            return f"MEDIA_ROOT {path} is not mounted; look: systemctl status '*media*'"
    return ""


def mount(cluster: Cluster, host: Host, secrets: Secrets) -> None:
    """Mount MEDIA_ROOT of each site; on the host that exports it, it is there already."""
    if not cluster.mounts_share(host):
        return
    nfs = cluster.settings.media.share == "nfs"
    config(
        name=f"MEDIA_ROOT is mounted over {cluster.settings.media.share}",
        stamp=MOUNT_STAMP,
        entries=mount_entries(cluster, host, secrets),
        check=" && ".join(_nothing_hidden(site, cluster.media_home) for site in cluster.sites),
        then=_stopped(_UNUSED_BY_NFS4) if nfs else "",
        units=mount_units(cluster),
        # An old server is not gone back to: it may be at work again, and this host alone would write
        # there.
        keep_new=_changes_server(cluster, host),
    )


def prepare_mount(cluster: Cluster, host: Host, secrets: Secrets) -> None:
    """On a host that mounts MEDIA_ROOT for the first time, have all ready but the name of its server."""
    wants = "/etc/systemd/system/multi-user.target.wants"
    config(
        name="MEDIA_ROOT can be mounted",
        stamp=MOUNT_STAMP,
        entries=[
            *(entry for entry in mount_entries(cluster, host, secrets) if entry.path != _SERVER),
            *(
                Link(f"{wants}/{unit.name}", f"/etc/systemd/system/{unit.name}")
                for unit in mount_units(cluster)
            ),
        ],
    )


def mount_entries(cluster: Cluster, host: Host, secrets: Secrets) -> list[Entry]:
    """Return the files by which a host mounts MEDIA_ROOT."""
    server = cluster.media_home
    nfs = cluster.settings.media.share == "nfs"
    values: dict[str, Any] = {
        "port": cluster.settings.media.share_port,
        "options": NFS_OPTIONS if nfs else SSHFS_OPTIONS,
    }
    if nfs and "web" not in host.tiers:
        values["options"] += ",ro"
    kind = "nfs" if nfs else "sshfs"
    # The mount points are no entries: a look at a mount whose server is dead would wait for it. The
    # services make them.
    return [
        *(_nfs_client() if nfs else _sshfs_client(cluster, secrets)),
        File(
            _SERVER,
            template("web/etc/tierstack/share_server.j2", server=server.address),
            needs="restart",
        ),
        *(
            File(
                f"/etc/systemd/system/{unit_name(site)}",
                template(
                    f"web/etc/systemd/system/tierstack-media.{kind}.service.j2",
                    site=site,
                    handle=f"/run/tierstack/mounts/{site.name}",
                    watch=_WATCH,
                    **values,
                ),
                needs="restart",
            )
            for site in cluster.sites
        ),
    ]


def mount_units(cluster: Cluster) -> list[Unit]:
    """Return the services that mount MEDIA_ROOT of each site; none of them can reload."""
    return [Unit(unit_name(site), reload="true") for site in cluster.sites]


def _nfs_client() -> list[Entry]:
    return [
        *_masked(_UNUSED_BY_NFS4),
        File(_WATCH, template(f"web{_WATCH}.j2"), mode="755", needs="restart"),
        *(Absent(path) for path in _SSHFS_CLIENT),
    ]


def _sshfs_client(cluster: Cluster, secrets: Secrets) -> list[Entry]:
    server, sshfs_port = cluster.media_home, cluster.settings.media.sshfs_port
    return [
        File(
            _KEY,
            _key(secrets["share.client_key"]),
            mode="600",
            needs="restart",
        ),
        File(
            _KNOWN,
            template(
                "web/etc/tierstack/share_known_hosts.j2",
                server=server.address,
                port=sshfs_port,
                public_key=ssh_public_key(secrets[f"share.{server.name}_host_key"]),
            ),
            needs="restart",
        ),
        File(
            _SSH_CONFIG,
            template("web/etc/tierstack/share_ssh_config.j2", port=sshfs_port),
            needs="restart",
        ),
    ]


def unit_name(site: Site) -> str:
    """Return the service that mounts a site's MEDIA_ROOT."""
    return f"tierstack-media-{site.name}.service"


def _masked(units: Sequence[str]) -> list[Entry]:
    return [Link(f"/etc/systemd/system/{unit}", "/dev/null", needs="restart") for unit in units]


def _gone(*units: str) -> list[Entry]:
    """Return what takes away the units of the other kind of share, where it was that one before."""
    return [
        Absent(f"/etc/systemd/system/{directory}{unit}", needs="restart")
        for unit in units
        for directory in ("multi-user.target.wants/", "")
    ]


def _stopped(units: Sequence[str]) -> str:
    # Not an error where a unit is not there.
    return f"systemctl stop {' '.join(units)} 2>/dev/null || true"


def _nothing_hidden(site: Site, server: Host) -> str:
    """Return a shell command that fails if a mount would hide files; asks a mount nothing."""
    path = site.media_root
    return (
        f"if ! grep -q ' {path} ' /proc/self/mountinfo && [ -e {path} ]"
        f' && [ -n "$(find {path} -mindepth 1 -print -quit)" ]; then'
        f" echo '{path} holds files of this host alone, which the share would hide;"
        f" move them to {path} on {server.name} and leave {path} here empty'; exit 1; fi"
    )


def _key(text: str) -> bytes:
    # OpenSSH does not read a key whose last line does not end.
    return text.strip().encode() + b"\n"
