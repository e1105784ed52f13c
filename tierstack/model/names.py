"""Names that belong to somebody else: a site or a host that is called so would be taken for it."""

from __future__ import annotations

from collections.abc import Collection

#: What every Debian has: base-passwd 3.6.1, passwd.master and group.master, and the groups that
#: systemd 252 (sysusers.d/basic.conf) and 257 make. Without those that begin with `_`, which is no
#: name for a site.
_DEBIAN = frozenset({
    "adm", "audio", "backup", "bin", "cdrom", "clock", "crontab", "daemon", "dialout", "dip",
    "disk", "fax", "floppy", "games", "input", "irc", "kmem", "kvm", "list", "lp", "mail", "man",
    "messagebus", "netdev", "news", "nobody", "nogroup", "operator", "plugdev", "polkitd", "proxy",
    "render", "root", "sasl", "sgx", "shadow", "src", "staff", "sudo", "sync", "sys", "tape", "tty",
    "users", "utmp", "uucp", "video", "voice", "wheel", "www-data",
})  # fmt: skip

#: What the packages that tiers need bring along, by their maintainer scripts and sysusers.d:
#: chrony, haproxy, memcached, nfs-common, openssh-server, postgresql-common, rpcbind, ssl-cert.
_PACKAGES = frozenset({
    "chrony", "haproxy", "memcache", "postgres", "rpc", "ssh", "ssl-cert", "sshd", "statd",
})  # fmt: skip

#: Roles and databases that PostgreSQL has, or does not let anybody make.
#: Source: PostgreSQL 15 manual, CREATE ROLE ("reserved"), 23.3 "Template Databases".
_POSTGRESQL = frozenset({"none", "public", "postgres", "template0", "template1"})

#: Names by which a host reaches itself, and those of Debian's /etc/hosts. Source: RFC 6761, 6.3.
_LOOPBACK = frozenset(
    {"localhost", "ip6-localhost", "ip6-loopback", "ip6-allnodes", "ip6-allrouters"}
)


def owner_of_site_name(name: str) -> str:
    """
    Return whose name it is, "" if a site may have it.

    A site's account, its group, its database and its role are called as the site is.
    """
    if name in _POSTGRESQL or name.startswith("pg-"):
        return "PostgreSQL"
    if name in _PACKAGES:
        return "a program of the cluster"
    if name == "tierstack" or name.startswith("tierstack-"):
        return "the cluster itself"
    # Debian's systemd makes more of these with every release.
    if name in _DEBIAN or name.startswith("systemd-"):
        return "Debian"
    return ""


def owner_of_host_name(name: str, tiers: Collection[str], inventory: str) -> str:
    """
    Return what else is called as a host, "" if nothing is.

    Args:
        name: the host's name.
        tiers: the tiers, which are groups of pyinfra's.
        inventory: the inventory file's name without `.py`, which is a group of pyinfra's, too.
    """
    if name in _LOOPBACK or name.startswith("localhost.") or name.endswith(".localhost"):
        return "every host's name for itself"
    if name == "all":
        return "the group of all hosts"
    if name in tiers:
        return "a tier"
    if name == inventory:
        return "this inventory"
    return ""
