"""What every host gets: packages of all its tiers, accounts, kernel settings, clock, firewall."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence

from roles.web.settings import DOOR, ROOM
from tierstack import hosts
from tierstack.agents.web_release import BUILDER
from tierstack.model import UNITS, Cluster, Host, Opening, Site
from tierstack.model.identity import ID, NOTE, authority, irreplaceable
from tierstack.model.plan import Rules
from tierstack.model.preflight import HAVE_ACCOUNTS
from tierstack.model.served import served_names, site_notes
from tierstack.operations.config import Directory, File, Unit, config, template
from tierstack.operations.new_connection import over_new_connection
from tierstack.operations.packages import packages
from tierstack.operations.retired import retired
from tierstack.secrets import Secrets

#: Debian 12's packages of each tier.
PACKAGES = {
    "balancer": ("haproxy", "socat"),
    "web": (
        "apache2",
        "libapache2-mod-python",
        "python3-venv",
        "libpq5",
        "curl",
    ),
    "db": ("postgresql-15", "postgresql-client-15"),
    "cache": ("memcached",),
    "media": ("lighttpd",),
}
#: What each kind of share needs where MEDIA_ROOT lies, and where it is mounted.
_EXPORT_PACKAGES = {
    "nfs": ("nfs-kernel-server",),
    "sshfs": ("openssh-server", "openssh-sftp-server"),
}
#: What sends copies of MEDIA_ROOT to further media hosts, and what takes them.
_COPY_PACKAGES = ("lsyncd", "rsync")
_MOUNT_PACKAGES = {"nfs": ("nfs-common",), "sshfs": ("sshfs",)}

#: Tiers whose programs are stopped on a host that has left them; each has a stamp of its name.
_MAY_LEAVE = ("balancer", "web", "cache", "media")

_FIREWALL = "/usr/local/lib/tierstack/firewall"
#: The rules that were kept last, which are loaded at boot. In /etc, which is there before any mount.
_GOOD_RULES = "/etc/tierstack/nftables.good"

#: Directories that lsyncd may watch; the kernel takes 1 KiB for each that it does.
_WATCHES = 1048576

#: Rules by chain, "input" and "output".
_Chains = dict[str, list[str]]

#: How long new rules are on trial before those of before come back, in seconds.
_ROLLBACK_S = 45

#: Where `base.outgoing` names nothing.
_ANYTHING = 'accept comment "anything"'

#: Debian's PostgreSQL makes a cluster while it is installed, without checksums; ours is made later.
_NO_DEFAULT_CLUSTER = (
    "mkdir -p /etc/postgresql-common/createcluster.d\n"
    "echo 'create_main_cluster = false' > /etc/postgresql-common/createcluster.d/tierstack.conf\n"
)


def deploy(cluster: Cluster, host: Host, secrets: Secrets) -> None:
    """Bring a host to the state that every tier builds on."""
    # First of all: whatever becomes of this run, the host tells whose secrets and sites it has.
    _note(cluster, host, secrets, served_names(hosts.all_facts()))
    packages(
        name="Packages of this host's tiers are installed",
        missing=hosts.facts(host.name)["packages"]["missing"],
        before=_NO_DEFAULT_CLUSTER if "db" in host.tiers else "",
    )
    # Accounts and kernel settings first: files of the tiers belong to these accounts, and
    # programs bind to the cluster address.
    settle(cluster, host)
    # Nothing is closed yet: what served before serves on, whatever becomes of this run.
    wanted, outdated = _rules(cluster, host), _outdated(cluster, host)
    _firewall(
        "Firewall lets through what the flows name",
        host,
        {chain: [*wanted[chain], *outdated[chain]] for chain in wanted},
    )


def settle(cluster: Cluster, host: Host) -> None:
    """Have the accounts of the sites that the cluster knows, and the system's own settings."""
    sites = cluster.known_sites if HAVE_ACCOUNTS & set(host.tiers) else ()
    # Whoever can open a door can hold all requests back: root, and who serves. Where another site is
    # to serve, the web node sees to it when that one starts.
    serving = (cluster.leaving or cluster.sites)[0].account
    config(
        name="Accounts, kernel settings and journal limits are in place",
        stamp="base",
        entries=[
            Directory("/etc/tierstack"),
            File(
                "/etc/sysusers.d/tierstack.conf",
                template(
                    "base/etc/sysusers.d/tierstack.conf.j2",
                    sites=sites,
                    builder=BUILDER if "web" in host.tiers else "",
                ),
            ),
            File(
                "/etc/tmpfiles.d/tierstack.conf",
                template(
                    "base/etc/tmpfiles.d/tierstack.conf.j2",
                    sites=sites,
                    doors=(DOOR, ROOM) if "web" in host.tiers else (),
                    doors_group=serving,
                ),
            ),
            File(
                "/etc/sysctl.d/60-tierstack.conf",
                template(
                    "base/etc/sysctl.d/60-tierstack.conf.j2",
                    swappiness=cluster.settings.base.swappiness,
                    balancer="balancer" in host.tiers,
                    watches=_WATCHES if cluster.copies and host in cluster.home_candidates else 0,
                ),
            ),
            File(
                "/etc/systemd/journald.conf.d/tierstack.conf",
                template(
                    "base/etc/systemd/journald.conf.d/tierstack.conf.j2",
                    journal_mb=cluster.settings.base.journal_mb,
                ),
            ),
        ],
        then="systemd-sysusers /etc/sysusers.d/tierstack.conf"
        f"{''.join(_account_is_ours(site) for site in sites)}"
        " && systemd-tmpfiles --create /etc/tmpfiles.d/tierstack.conf"
        " && sysctl -q -e -p /etc/sysctl.d/60-tierstack.conf",
        units=[
            Unit(
                "systemd-journald.service",
                reload="systemctl restart systemd-journald.service",
            ),
            # It reads none of these files, and cannot reload.
            *(
                []
                if hosts.facts(host.name)["container"]
                else [Unit("chrony.service", reload="true")]
            ),
        ],
    )


def note_served(cluster: Cluster, host: Host, secrets: Secrets) -> None:
    """Note, at the end of a good run, that the inventory's sites are served, and no other."""
    sites = {site.name for site in cluster.sites}
    # It says so already where the note of this run's start does.
    if not sites <= served_names(hosts.all_facts()) or cluster.leaving:
        _note(cluster.without_leaving(), host, secrets, sites)


def _note(cluster: Cluster, host: Host, secrets: Secrets, served: Collection[str]) -> None:
    """Note on a host what its cluster is: the next run's look at the hosts asks for it."""
    note = {
        "id": secrets[ID],
        "authority": authority(secrets["cluster.ca_certificate"]),
        "secrets": irreplaceable(secrets.values),
        "sites": site_notes(cluster, served),
        "memory_mb": host.memory_mb,
    }
    if hosts.facts(host.name)["note"] != note:
        config(
            name="The host knows its cluster and its sites",
            stamp="cluster",
            entries=[File(NOTE, (json.dumps(note, indent=4) + "\n").encode(), mode="600")],
        )


def _account_is_ours(site: Site) -> str:
    """
    Return a shell command's tail that fails where somebody else has an account of a site's name.

    systemd-sysusers takes what is there without a word: a package of this run may have made it, after
    the host was looked at.
    """
    name = site.account
    return (
        f" && {{ getent passwd {name} | grep -q ':{site.home}:[^:]*$' ||"
        f" {{ echo 'its account {name} is not the one of the site {name}, as this tells:';"
        f" getent passwd {name}; echo 'choose another name for the site'; exit 1; }}; }}"
    )


def close(cluster: Cluster, host: Host) -> None:
    """Close, at the end of a good run, what earlier inventories had opened, and stop what they ran."""
    if any(_outdated(cluster, host).values()):
        _firewall("Firewall lets nothing else through", host, _rules(cluster, host))
    left = [tier for tier in _MAY_LEAVE if tier not in host.tiers]
    there = [tier for tier in left if tier in hosts.facts(host.name)["stamps"]]
    if there:
        retired(
            name="Programs of tiers that this host has left are stopped",
            units={tier: UNITS[tier] for tier in there},
        )


def _load_rules(ssh_ports: Collection[int]) -> str:
    """
    Return the command by which systemd loads the rules that were kept last.

    Where they are missing or broken it fails, and lets in nothing but SSH: nobody is locked out, and
    nothing is open that should not be. The command needs no other file of ours.
    """
    closed = (
        "table inet tierstack; delete table inet tierstack; table inet tierstack { chain input {"
        " type filter hook input priority filter; policy drop; ct state established,related accept;"
        " iif lo accept; meta l4proto { icmp, ipv6-icmp } accept; udp sport 67 udp dport 68 accept;"
        " udp sport 547 udp dport 546 accept;"
        f" tcp dport {{ {', '.join(map(str, sorted(ssh_ports)))} }} accept; }}; }}"
    )
    return (
        f"/bin/sh -c \"nft -f {_GOOD_RULES} || {{ nft '{closed}';"
        f" echo '{_GOOD_RULES} cannot be loaded: nothing but SSH is let in; deploy again';"
        ' exit 1; }"'
    )


def _firewall(name: str, host: Host, rules: _Chains) -> None:
    load = _load_rules({host.ssh_port, *hosts.facts(host.name)["ssh_ports"]})
    changed = config(
        name=name,
        stamp="firewall",
        entries=[
            File(
                "/etc/tierstack/nftables.conf",
                template("base/etc/tierstack/nftables.conf.j2", rules=rules),
                mode="600",
                rules=Rules("firewall rule", "firewall rules", r" accept comment "),
            ),
            File(
                _FIREWALL,
                template(
                    "base/usr/local/lib/tierstack/firewall.j2",
                    rollback_s=_ROLLBACK_S,
                    good=_GOOD_RULES,
                ),
                mode="755",
            ),
            *(
                File(path, template(f"base{path}.j2", load=load))
                for path in (
                    "/etc/systemd/system/tierstack-firewall.service",
                    "/etc/systemd/system/nftables.service.d/tierstack.conf",
                )
            ),
        ],
        check_staged="nft -c -f $STAGE/etc/tierstack/nftables.conf",
        # Before the unit is enabled: a host that goes down meanwhile comes back as it was.
        then=f"{_FIREWALL} begin",
        units=[
            Unit(
                "tierstack-firewall.service",
                start=f"{_FIREWALL} try",
                restart=f"{_FIREWALL} try",
                reload=f"{_FIREWALL} try",
                # A trial that a run which was cut off has left open is made anew.
                healthy=f"nft list table inet tierstack && {_FIREWALL} kept",
            )
        ],
    )
    over_new_connection(
        name="The firewall lets new connections in",
        command=f"{_FIREWALL} keep",
        refused="the new firewall lets no new SSH connection in; the rules of before come back by"
        f" themselves within {_ROLLBACK_S} s",
        _if=changed.did_change,
    )


def _rules(cluster: Cluster, host: Host) -> _Chains:
    rules = [_rule(opening, "saddr") for opening in cluster.openings(host)]
    # Wherever the host's own SSH server listens, the inventory may know it by another port or
    # leave it to ~/.ssh/config: nobody is locked out.
    for port in hosts.facts(host.name)["ssh_ports"]:
        rule = f'tcp dport {port} accept comment "SSH"'
        if rule not in rules:
            rules.append(rule)
    exits = cluster.exits(host)
    outgoing = [_ANYTHING] if exits is None else [_rule(way, "daddr") for way in exits]
    return {"input": rules, "output": outgoing}


def _outdated(cluster: Cluster, host: Host) -> _Chains:
    """Return the rules that are on the host now, as it said at the start, and should not stay."""
    wanted, there = _rules(cluster, host), hosts.facts(host.name)["firewall"]
    return {
        chain: [rule for rule in there[chain] if rule not in rules]
        for chain, rules in wanted.items()
    }


def needed_packages(cluster: Cluster, host: Host, container: bool) -> Sequence[str]:
    """Return the Debian packages that a host's tiers need, sorted."""
    wanted = ["nftables", "ca-certificates"]
    if not container:
        wanted.append("chrony")  # A container has its machine's clock.
    for tier in host.tiers:
        wanted += PACKAGES.get(tier, ())
    # Which media host has MEDIA_ROOT may change: each has what the other needs.
    if cluster.exporter and host in cluster.home_candidates:
        wanted += _EXPORT_PACKAGES[cluster.settings.media.share]
        wanted += _COPY_PACKAGES if cluster.copies else ()
    if cluster.mounts_share(host) or (cluster.exporter and _may_mount(cluster, host)):
        wanted += _MOUNT_PACKAGES[cluster.settings.media.share]
    if "web" in host.tiers and not cluster.tier("media"):
        wanted.append("media-types")  # Apache serves files itself, each as what its ending says.
    if "web" in host.tiers:
        wanted += [package for site in cluster.sites for package in site.settings.packages]
    return sorted(set(wanted))


def _may_mount(cluster: Cluster, host: Host) -> bool:
    """Return whether a host mounts MEDIA_ROOT once it lies on another one."""
    return "web" in host.tiers and host in cluster.home_candidates


def _rule(opening: Opening, end: str) -> str:
    """Return one nftables rule; `end` is where peers stand, "saddr" or "daddr". Source: nft(8), "Sets"."""
    peers = ""
    if opening.peers:
        family = "ip6" if ":" in opening.peers[0] else "ip"
        peers = f"{family} {end} {{ {', '.join(opening.peers)} }} "
    return f'{peers}{opening.protocol} dport {opening.port} accept comment "{opening.purpose}"'
