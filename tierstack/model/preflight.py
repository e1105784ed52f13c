"""What hosts say of themselves before the first change, judged: what is in the way of a deploy."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from tierstack.model.cluster import Cluster, Host
from tierstack.model.database_home import judge_home
from tierstack.model.errors import Mistake
from tierstack.model.plan import listed
from tierstack.model.ports import judge_ports, listeners
from tierstack.model.shut import judge_shut

CODENAME = "bookworm"

#: Certificates and PostgreSQL's replication times mean little on clocks that are further apart.
CLOCK_LIMIT_S = 60

#: What the kernel keeps for itself of the memory that a host is sold with.
_KERNEL_SHARE = 0.1

#: What every file system of a deployed host needs free: a deploy writes settings and logs, and a
#: release that is new. In MiB, and inodes.
_DEPLOYED_MB, _DEPLOYED_INODES = 100, 1000

#: Most WAL between two checkpoints, PostgreSQL's default max_wal_size, in MiB.
_WAL_MB = 1024

#: What is executed from /srv, or loaded: a site's Python modules in C.
_EXECUTED = "/srv"

#: Tiers on whose hosts a site's account owns files or processes.
HAVE_ACCOUNTS = frozenset({"web", "media", "storage"})

#: What NFS is in the kernel: the client's and the server's file system, and the module of each.
_MODULES = {"nfs4": "nfsv4", "nfsd": "nfsd"}

_Answer = Mapping[str, Any] | str


@dataclass(frozen=True)
class _Room:
    """Room that a tier needs where a path lies, in MiB and inodes, before it is deployed."""

    path: str
    megabytes: int
    inodes: int
    purpose: str


def question(
    cluster: Cluster, host: Host, asked: Collection[str], packages: Mapping[str, list[str]]
) -> dict[str, Any]:
    """
    Return what a host is asked.

    Args:
        cluster: the cluster.
        host: the host.
        asked: names of all hosts that are asked; others may be down.
        packages: the Debian packages that it needs as a "machine", and as a "container".
    """
    ports: dict[str, list[str]] = {}
    for listener in listeners(cluster, host):
        ports.setdefault(str(listener.port), []).extend(listener.addresses)
    return {
        "codename": CODENAME,
        "paths": sorted({room.path for room in _rooms(cluster, host)}),
        "ports": ports,
        "peers": _peers(cluster, host, asked),
        "accounts": _accounts(cluster, host),
        "media": [site.name for site in cluster.sites],
        "served": _served(cluster, host),
        "modules": {kind: _MODULES[kind] for kind in _file_systems(cluster, host)},
        "share_port": cluster.settings.media.share_port,
        "packages": packages,
    }


def _peers(cluster: Cluster, host: Host, asked: Collection[str]) -> dict[str, dict[str, Any]]:
    """Return the hosts that a host connects to, with ports that say something of the way there."""
    found: dict[str, dict[str, Any]] = {}
    for flow in cluster.flows:
        for peer in cluster.tier(flow.target) if flow.source in host.tiers else ():
            if peer != host and peer.name in asked:
                here = found.setdefault(
                    peer.name, {"address": peer.address, "ports": [peer.ssh_port]}
                )
                here["ports"].append(flow.port)
    return found


def _accounts(cluster: Cluster, host: Host) -> dict[str, int]:
    """Return the accounts that a host gets, and their groups, by number."""
    if not HAVE_ACCOUNTS & set(host.tiers):
        return {}
    return {site.account: site.uid for site in cluster.sites}


def _served(cluster: Cluster, host: Host) -> dict[str, bool]:
    """Return directories that a host serves to visitors or to others, and whether uploads lie there."""
    if "media" not in host.tiers and host not in cluster.home_candidates:
        return {}
    return {
        path: path == site.media_root
        for site in cluster.sites
        for path in (site.media_root, site.static_root)
    }


def _numbers_travel(cluster: Cluster, host: Host) -> bool:
    """Return whether the numbers of accounts must be ours: over NFS, owners travel as numbers."""
    shares = host == cluster.exporter or cluster.mounts_share(host)
    shares = shares or (cluster.exporter is not None and host in cluster.home_candidates)
    return shares and cluster.settings.media.share == "nfs"


def clock_offset_s(said: tuple[float, float], ours: tuple[float, float]) -> float:
    """
    Return by how much a clock is surely off: 0 when it may be right.

    Args:
        said: what it was when the host began to answer, and when it had ended, in seconds.
        ours: what our clock was when we asked, and when the answer had come.

    Returns:
        Seconds, positive when it is ahead. However slow the way, nothing is found that is not so.
    """
    return max(0.0, said[1] - ours[1]) or min(0.0, said[0] - ours[0])


def no_answer(said: str, sudo: bool = False, password: bool = False) -> str:
    """
    Return why a host that lets us in does not answer, and what to do.

    Args:
        said: its own words, or sudo's; "" when sudo wants a password and nobody is there to type it.
        sudo: whether sudo was to make us root.
        password: whether its line has a password for sudo.
    """
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    shown = lines[-1] if lines else "it says nothing"
    if not sudo or "Traceback" in said:
        return f"cannot be asked ({shown}); look whether its python3 works"
    if password and (not lines or "askpass" in said):
        return (
            "sudo does not take the password of its line; correct it, or where /tmp is mounted noexec,"
            ' which keeps sudo from asking for it, write "_temp_dir": "/var/tmp" beside it'
        )
    if "not found" in said:
        return "has no sudo; log in as root, or type on it as root: apt-get install sudo"
    if not lines:
        shown = "sudo: a password is required"
    return (
        f"sudo does not work there ({shown}); let the SSH user use it without a password: write"
        " USER ALL=(ALL) NOPASSWD: ALL in a file of /etc/sudoers.d"
    )


def noise(lines: Sequence[str]) -> str:
    """
    Return what is wrong with a login shell that prints something of its own, "" if it does not.

    Args:
        lines: what was printed by a program of ours, which prints one line.
    """
    if len(lines) < 2:
        return ""
    return (
        f'its shell prints "{lines[0].strip()}" before what a command says, and that garbles every'
        " answer; in the file that does so, such as ~/.bashrc, write above it: [ -t 1 ] || return"
    )


def judge(
    cluster: Cluster,
    answers: Mapping[str, _Answer],
    start_empty: str = "",
    shut: bool | None = False,
) -> list[Mistake]:
    """
    Return what is in the way of a deploy, of all hosts that were asked.

    Args:
        cluster: the cluster.
        answers: by host name: what `preflight_agent.py` said, {} where there is no python3, or in
            words why the host could not be asked. `clock_offset_s` is added to the agent's.
        start_empty: the db host that is to begin with an empty database, in the user's words.
        shut: whether the firewall may shut what listens on a host and is not ours; None for a run that
            changes no firewall.
    """
    mistakes = []
    whole: dict[str, Mapping[str, Any]] = {}
    for name, said in sorted(answers.items()):
        if isinstance(said, str):
            mistakes.append(Mistake(name, said))
        elif unsupported := _unsupported(name, said):
            mistakes += unsupported
        else:
            whole[name] = said
    # Nobody reaches an address that its host has not: said once.
    lost = {
        name for name, said in whole.items() if cluster.host(name).address not in said["addresses"]
    }
    for name, said in whole.items():
        host = cluster.host(name)
        mistakes += [
            *([_address(cluster, host, said)] if name in lost else []),
            *_memory(cluster, host, said),
            *_clock(host, said),
            *_disks(cluster, host, said),
            *judge_ports(cluster, host, said),
            *(() if shut is None else judge_shut(cluster, host, said, shut)),
            *_links(cluster, host, said),
            *_packages(cluster, host, said),
            *_foreign_accounts(cluster, host, said),
            *_numbers(cluster, host, said),
            *(_way(cluster, host, peer) for peer in said["silent"] if peer not in lost),
        ]
    mistakes += _kernels(cluster, whole)
    # Where a host is not known, it might have the database: it is named already.
    if whole.keys() == answers.keys():
        mistakes += judge_home(cluster, whole, start_empty)
    return mistakes + _doubles(cluster, whole)


def _unsupported(name: str, said: Mapping[str, Any]) -> list[Mistake]:
    if not said:
        return [Mistake(name, "has no python3; type on it: apt-get install python3")]
    mistakes = []
    if said["codename"] != CODENAME:
        what = f"runs {said['system']}, which is not supported; install Debian 12 (bookworm) on it"
        mistakes.append(Mistake(name, what))
    if not said["systemd"]:
        mistakes.append(Mistake(name, "does not run systemd; boot it with systemd as its init"))
    if not said["root"]:
        what = 'the SSH user is not root; log in as root, or write "_sudo": True in its line'
        mistakes.append(Mistake(name, what))
    return mistakes


def _address(cluster: Cluster, host: Host, said: Mapping[str, Any]) -> Mistake:
    own = ", ".join(said["addresses"]) or "none"
    return Mistake(
        f"{host.line}.address",
        f"{host.address} is not an address of {host.name}, which has {own};"
        " write the one by which the other hosts reach it",
    )


def _memory(cluster: Cluster, host: Host, said: Mapping[str, Any]) -> Iterator[Mistake]:
    has = said["memory_mb"]
    if host.memory_mb is not None and host.memory_mb * (1 - _KERNEL_SHARE) > has:
        yield Mistake(
            f"{host.line}.memory_mb",
            f"{host.name} has {has} MiB, and {host.memory_mb} are planned with;"
            f" write at most {has}, or leave it out",
        )


def _clock(host: Host, said: Mapping[str, Any]) -> Iterator[Mistake]:
    offset = said["clock_offset_s"]
    if abs(offset) > CLOCK_LIMIT_S:
        yield Mistake(
            host.name,
            f"its clock is {abs(offset) / 60:.0f} min {'ahead of' if offset > 0 else 'behind'} this"
            f" machine's, and certificates and replication bear {CLOCK_LIMIT_S} s; type where it is"
            " wrong: apt-get install chrony && chronyc makestep",
        )


def _rooms(cluster: Cluster, host: Host) -> list[_Room]:
    """Return the room that a host needs before its first deploy, a little more than was measured."""
    rooms = [
        _Room("/usr", 50, 2000, "packages"),
        _Room("/var", 150 + cluster.settings.base.journal_mb, 1000, "logs"),
    ]
    if "web" in host.tiers:
        rooms.append(_Room("/usr", 150, 8000, "packages"))
        rooms.append(_Room(_EXECUTED, 400, 20000, "releases"))
        rooms.append(_Room("/var", 150, 12000, "releases"))
    if "db" in host.tiers:
        standbys = len(cluster.tier("db")) > 1
        # The primary keeps so much for a standby that is away, and any host may become primary.
        kept = cluster.settings.db.slot_keep_mb if standbys else 0
        purpose = "PostgreSQL" + (f" with {kept} for db.slot_keep_mb" if kept else "")
        rooms.append(_Room("/usr", 300, 3000, "packages"))
        rooms.append(_Room("/var/lib/postgresql", _WAL_MB + 200 + kept, 5000, purpose))
    if "media" in host.tiers or host in (cluster.media_home, *cluster.tier("storage")):
        rooms.append(_Room("/srv", 500, 5000, "uploads and static files"))
    return rooms


def _disks(cluster: Cluster, host: Host, said: Mapping[str, Any]) -> Iterator[Mistake]:
    """Judge each file system by all that will lie on it; once deployed, it holds that already."""
    deployed = not said["packages"]["missing"]
    disks = said["disks"]

    def mount(room: _Room) -> str:
        return str(disks[room.path]["mount"])

    for where, group in groupby(sorted(_rooms(cluster, host), key=mount), key=mount):
        rooms = list(group)
        disk = disks[rooms[0].path]
        yield from _mounted_right(host, disk, rooms)
        purposes = ", ".join(dict.fromkeys(room.purpose for room in rooms))
        needs = (
            ("free_mb", "MiB", _DEPLOYED_MB, sum(room.megabytes for room in rooms)),
            ("free_inodes", "inodes", _DEPLOYED_INODES, sum(room.inodes for room in rooms)),
        )
        for key, unit, later, first in needs:
            need = later if deployed else first
            if disk[key] is not None and disk[key] < need:
                yield Mistake(
                    host.name,
                    f"{where} has {disk[key]} {unit} free, and the deploy needs {need}"
                    f" ({purposes}); delete something there, or give it a larger disk",
                )


def _mounted_right(host: Host, disk: Mapping[str, Any], rooms: list[_Room]) -> Iterator[Mistake]:
    where = disk["mount"]
    if disk["read_only"]:
        what = f"{where} is mounted read-only; look why (dmesg), then type: mount -o remount,rw {where}"
        yield Mistake(host.name, what)
    if disk["noexec"] and any(
        room.path in (_EXECUTED, "/usr") for room in rooms if "web" in host.tiers
    ):
        what = (
            f"{where} is mounted noexec, and sites' Python modules are loaded from there;"
            f" take noexec out of its line in /etc/fstab, and type: mount -o remount,exec {where}"
        )
        yield Mistake(host.name, what)


def _links(cluster: Cluster, host: Host, said: Mapping[str, Any]) -> Iterator[Mistake]:
    """Refuse links that nobody would follow: one rule for Apache, lighttpd, copies and the share."""
    for link, target in said["links"].items():
        inside = any(link.startswith(f"{site.media_root}/") for site in cluster.sites)
        if not target:
            to, way = "a link to nothing", f"type on it: rm {link}"
        elif inside:
            # No mount of its own: over NFS it would not be seen.
            to = f"a link to {target}"
            way = f"have in its place what it leads to, type on it: rm {link} && mv {target} {link}"
        else:
            to = f"a link to {target}"
            way = (
                f"mount in its place what it leads to, type on it: rm {link} && mkdir {link} && mount"
                f" --bind {target} {link}, and write in its /etc/fstab: {target} {link} none bind 0 0"
            )
        what = f"{link} is {to}, and who serves uploads and static files follows no links; {way}"
        yield Mistake(host.name, what)


def _packages(cluster: Cluster, host: Host, said: Mapping[str, Any]) -> Iterator[Mistake]:
    found = said["packages"]
    for package in found["unknown"]:
        sites = [i for i, site in enumerate(cluster.sites) if package in site.settings.packages]
        if sites:
            what = (
                f"apt on {host.name} knows no package {package}; write the name that Debian 12 has"
                " for it, or if its source is new there, type: apt-get update"
            )
            yield Mistake(f"sites[{sites[0]}].packages", what)
        else:
            what = (
                f"apt knows no package {package}; name Debian 12's sources in /etc/apt/sources.list,"
                " and type: apt-get update"
            )
            yield Mistake(host.name, what)
    if found["said"]:
        what = f"apt cannot install what it needs: {found['said'].rstrip('.')}; correct it, e.g. by: apt-get install -f"
        yield Mistake(host.name, what)
    # What it may not yet, no rule of this run lets it: the rules come after the packages.
    way = (
        ""
        if cluster.settings.base.outgoing is None
        else " by base.outgoing, in a deploy before this one"
    )
    for source, why in sorted(found["sources"].items()):
        what = (
            f"its package source {source} cannot be read ({why}); correct it in /etc/apt, or let the"
            f" host out to it{way}"
        )
        yield Mistake(host.name, what)


def _foreign_accounts(cluster: Cluster, host: Host, said: Mapping[str, Any]) -> Iterator[Mistake]:
    """Refuse an account or a group of a site's name that is not ours: the site would have its rights."""
    users, groups = said["accounts"]["users"], said["accounts"]["groups"]
    choose = (
        "and the site would have its rights; choose another name for the site, or if nobody needs"
    )
    for user in users:
        name = user["name"]
        if _is_foreign(cluster, user):
            what = (
                f"its account {name} is there already and not ours (number {user['number']}, home"
                f" {user['home']}, groups {', '.join(user['groups'])}), {choose} the account, type on"
                f" it: userdel {name}"
            )
            yield Mistake(host.name, what)
    ours = _accounts(cluster, host)
    for group in groups:
        name, number = group["name"], group["number"]
        if name in ours and number != ours[name] and name not in {user["name"] for user in users}:
            what = (
                f"its group {name} is there already and not ours (number {number}), {choose} the group,"
                f" type on it: groupdel {name}"
            )
            yield Mistake(host.name, what)


def _is_foreign(cluster: Cluster, user: Mapping[str, Any]) -> bool:
    """Return whether an account is called as a site's and is another; ours may have got more groups."""
    more = user["groups"] != [user["name"]] and not user["ours"]
    sites = [site for site in cluster.sites if site.account == user["name"]]
    return any(more or user["home"] != site.home for site in sites)


def _numbers(cluster: Cluster, host: Host, said: Mapping[str, Any]) -> Iterator[Mistake]:
    if not _numbers_travel(cluster, host):
        return
    users = [user for user in said["accounts"]["users"] if not _is_foreign(cluster, user)]
    numbers = {user["name"]: user["number"] for user in users}
    for account, number in _accounts(cluster, host).items():
        own = numbers.get(account, number)
        if own != number:
            yield Mistake(
                host.name,
                f"its account {account} has the number {own}, and files on the share belong to {number};"
                f" type on it: usermod -u {number} {account} && groupmod -g {number} {account}",
            )
        for other in (name for name, uid in numbers.items() if uid == number):
            if other != account:
                yield Mistake(
                    host.name,
                    f"its account {other} has the number {number}, which on the share is {account};"
                    f" give {other} another one: usermod -u NUMBER {other}",
                )


def _file_systems(cluster: Cluster, host: Host) -> list[str]:
    """Return the file systems that a host's kernel must have."""
    if cluster.settings.media.share != "nfs" or cluster.exporter is None:
        return []
    kinds = ["nfs4"] if cluster.mounts_share(host) else []
    return kinds + (["nfsd"] if host in cluster.home_candidates else [])


def _kernels(cluster: Cluster, whole: Mapping[str, Mapping[str, Any]]) -> list[Mistake]:
    lacking = {name: said["kernel_lacks"] for name, said in whole.items() if said["kernel_lacks"]}
    if not lacking:
        return []
    modules = sorted({_MODULES[kind] for kinds in lacking.values() for kind in kinds})
    load = f"modprobe -a {' '.join(modules)}"
    where = "on the machine whose containers they are"
    if not all(whole[name]["container"] for name in lacking):
        where = (
            "on each, which needs a kernel that has them, such as Debian's own (linux-image-amd64)"
        )
    # A storage host shares over NFS alone.
    instead = 'write share="sshfs" in group_data/media.py, or media=dict(share="sshfs") in all.py'
    if cluster.tier("storage"):
        instead += ", and delete the group storage"
    what = (
        f"nfs needs {' and '.join(modules)} in the kernel, and {listed(list(lacking))}"
        f" {'has' if len(lacking) == 1 else 'have'} not; {instead}, or type {where}: {load}"
    )
    return [Mistake("media.share", what)]


def _way(cluster: Cluster, host: Host, name: str) -> Mistake:
    peer = cluster.host(name)
    ports = _peers(cluster, host, {name})[name]["ports"]
    return Mistake(
        host.name,
        f"does not reach {name}: {peer.address} answers neither ping nor TCP on port"
        f" {' or '.join(str(port) for port in sorted(set(ports)))}; look at routes and at firewalls"
        f" between them, e.g. by: ip route get {peer.address}",
    )


def _doubles(cluster: Cluster, whole: Mapping[str, Mapping[str, Any]]) -> list[Mistake]:
    """
    Find hosts that are one machine under two names.

    By all that tells hosts apart: clones share their machine-id, containers their boot.
    """
    mistakes = []
    first: dict[tuple[Any, ...], Host] = {}
    for host in cluster.hosts:
        if host.name not in whole:
            continue
        said = whole[host.name]
        other = first.setdefault((said["machine"], *said["addresses"]), host)
        if other != host:
            what = (
                f"{host.name} is the same machine as {other.name}, reached twice by SSH; correct"
                " ssh_hostname or ssh_port, or write one name for it in both tiers"
            )
            mistakes.append(Mistake(host.line, what))
    return mistakes
