"""Copies of MEDIA_ROOT: the host that has it sends what changes, further media hosts keep and serve it.

Source: chapter, "Use a separate media server"; lsyncd 2.2 manual; rsyncd.conf(5).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pyinfra

from roles.share import Answers
from tierstack import hosts
from tierstack.model import Cluster, Host
from tierstack.model.media_home import COPY_UNITS, IDENTITY, NOTES
from tierstack.operations.config import Absent, Entry, File, Unit, config, template
from tierstack.operations.media_root import media_root
from tierstack.secrets import Secrets

#: lsyncd on the home, and rsync's server on a copy.
SENDER, RECEIVER = (f"{COPY_UNITS[part]}.service" for part in ("home", "copy"))

#: The only account that rsync's server knows.
USER = "copy"

#: How long a copy may be silent, and may take to be reached, in seconds; then it is tried again.
_TIMEOUT_S, _CONNECT_S = 20, 3

_CONF = "/etc/tierstack/rsyncd.conf"

_PASSWORD = "/etc/tierstack/copy_password"  # noqa: S105 -- the file's name

_GUARD = "/usr/local/lib/tierstack/media-noted"


def mark_home(cluster: Cluster, host: Host) -> None:
    """Note MEDIA_ROOT on the host that has it, so that its disk is known again."""
    if host == cluster.media_home:
        media_root(name="MEDIA_ROOT is known again", sites=cluster.known_sites, role="home")


def mark_old_home(cluster: Cluster, host: Host) -> None:
    """Note MEDIA_ROOT on the host that it is to leave; as such, if a move that was cut off has done so."""
    said = hosts.facts(host.name)["media"]
    leaving = [site for site in cluster.sites if said[site.name]["mark"] == "leaving"]
    others = [site for site in cluster.sites if site not in leaving]
    media_root(name="MEDIA_ROOT is known again", sites=others, role="home")
    media_root(name="MEDIA_ROOT is known to be on its way", sites=leaving, role="leaving")


def deploy(cluster: Cluster, host: Host, secrets: Secrets) -> None:
    """Have a media host send copies, or keep one, as its part is."""
    if host in cluster.copies:
        senders = [other for other in cluster.tier("media") if other != host]
        receive(cluster, host, secrets, senders)
    elif cluster.copies and host == cluster.media_home:
        _send(cluster, host, secrets)
    else:
        close(cluster, host)


def close(cluster: Cluster, host: Host) -> None:
    """Stop what sent or kept copies on a host that has no part in it any more; files stay."""
    taking_part = cluster.copies and host in (*cluster.copies, cluster.media_home)
    if not taking_part and "copies" in hosts.facts(host.name)["stamps"]:
        config(
            name="No copies of MEDIA_ROOT are sent or kept",
            stamp="copies",
            entries=[*_no_sender(), *_no_receiver()],
            then=_stopped(SENDER, RECEIVER),
        )


def _send(cluster: Cluster, host: Host, secrets: Secrets) -> None:
    config(
        name="Uploads are copied to the other media hosts",
        stamp="copies",
        entries=[
            *_no_receiver(),
            _guard(),
            File(
                "/usr/local/lib/tierstack/media-rsync",
                template("media/usr/local/lib/tierstack/media-rsync.j2", guard=_GUARD),
                mode="755",
            ),
            File(
                _PASSWORD,
                secrets["share.copy_password"].encode() + b"\n",
                mode="600",
                needs="restart",
            ),
            File(
                "/etc/tierstack/lsyncd.conf.lua",
                template(
                    "media/etc/tierstack/lsyncd.conf.lua.j2",
                    sites=cluster.known_sites,
                    copies=cluster.copies,
                    user=USER,
                    port=cluster.settings.media.copy_port,
                    password=f"/run/credentials/{SENDER}/copy_password",
                    timeout_s=_TIMEOUT_S,
                    connect_s=_CONNECT_S,
                ),
                needs="restart",
            ),
            File(
                f"/etc/systemd/system/{SENDER}",
                template(
                    f"media/etc/systemd/system/{SENDER}.j2",
                    sites=cluster.known_sites,
                    # Root would follow links that a site puts in its way. What is everybody's to read
                    # of a site that leaves, this account can read, too; several sites that stay need a
                    # service each.
                    account=cluster.sites[0].account,
                    guard=_GUARD,
                    password=_PASSWORD,
                ),
                needs="restart",
            ),
        ],
        then=_stopped(RECEIVER),
        units=[Unit(SENDER, reload="true")],
    )


def receive(
    cluster: Cluster, host: Host, secrets: Secrets, senders: Sequence[Host], part: str = "copy"
) -> None:
    """
    Let other hosts, and nobody else, bring a copy of MEDIA_ROOT.

    Args:
        cluster: the cluster.
        host: the host that keeps it.
        secrets: those of the cluster.
        senders: who may bring it.
        part: "copy"; or "home": what it has stays, and others bring what it lacks.
    """
    if part == "copy":
        media_root(name="MEDIA_ROOT is a copy", sites=cluster.known_sites, role="copy")
    config(
        name="A copy of MEDIA_ROOT is kept",
        stamp="copies",
        entries=[
            *_no_sender(),
            _guard(),
            # Not with the account's other files: rsync's server reads it as root.
            File(
                "/etc/tierstack/copy_secrets",
                f"{USER}:{secrets['share.copy_password']}\n".encode(),
                mode="600",
            ),
            File(
                _CONF,
                template(
                    "media/etc/tierstack/rsyncd.conf.j2",
                    sites=cluster.known_sites,
                    address=host.address,
                    port=cluster.settings.media.copy_port,
                    senders=[sender.address for sender in senders],
                    user=USER,
                    guard=_GUARD,
                    part=part,
                    refused="delete" if part == "home" else "",
                ),
                needs="restart",
            ),
            File(
                f"/etc/systemd/system/{RECEIVER}",
                template(f"media/etc/systemd/system/{RECEIVER}.j2", sites=cluster.known_sites),
                needs="restart",
            ),
        ],
        then=_stopped(SENDER),
        units=[Unit(RECEIVER)],
    )


def answers(cluster: Cluster, host: Host) -> Callable[[], str] | None:
    """Return a check for the gate: None where no copy is kept."""
    if host not in cluster.copies:
        return None
    port = cluster.settings.media.copy_port

    def check() -> str:
        if pyinfra.host.get_fact(Answers, address=host.address, port=port):
            return ""
        return f"no copy of MEDIA_ROOT is taken on {host.address}:{port}; look: journalctl -u {RECEIVER}"

    return check


def _guard() -> File:
    """Return the program that says whether MEDIA_ROOT is there, in its part."""
    return File(_GUARD, template(f"media{_GUARD}.j2", notes=NOTES, identity=IDENTITY), mode="755")


def _no_sender() -> list[Entry]:
    return [*_no_unit(SENDER), Absent(_PASSWORD, needs="restart")]


def _no_receiver() -> list[Entry]:
    return [*_no_unit(RECEIVER), Absent("/etc/tierstack/copy_secrets", needs="restart")]


def _no_unit(unit: str) -> list[Entry]:
    directory = "/etc/systemd/system"
    return [
        Absent(f"{directory}/multi-user.target.wants/{unit}", needs="restart"),
        Absent(f"{directory}/{unit}", needs="restart"),
    ]


def _stopped(*units: str) -> str:
    # Not an error where a unit is not there.
    return f"systemctl stop {' '.join(units)} 2>/dev/null || true"
