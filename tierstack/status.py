"""How the live hosts are: asked all at once, judged by one pure function."""

from __future__ import annotations

import contextlib
import datetime
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeGuard

import gevent
from pyinfra.api.config import Config
from pyinfra.api.exceptions import ConnectError, PyinfraError
from pyinfra.api.host import Host as PyinfraHost
from pyinfra.api.state import State
from pyinfra.context import ctx_host, ctx_inventory, ctx_state
from pyinfra_cli.inventory import make_inventory

from tierstack.host_keys import advice
from tierstack.model import TIERS, UNITS, Cluster, Host
from tierstack.model.certificate import WARN_DAYS, ends_of
from tierstack.model.media_home import COPY_UNITS
from tierstack.model.plan import listed
from tierstack.model.preflight import noise
from tierstack.model.primary import slot_name, switch_to
from tierstack.model.shell import quoted
from tierstack.model.shut import shut_by_other
from tierstack.operations.haproxy import HaproxyStat, Server
from tierstack.operations.postgres import DbState, Peers, ask_peers, look, streams
from tierstack.operations.remote import RemoteFact, program
from tierstack.secrets import RENEWED_BEFORE

_CONNECT_TIMEOUT_S = 5

#: A standby that is further behind is worth a look.
_LAG_LIMIT_S = 30

#: What is said of a firewall that is not there as it should be.
_FIREWALL_NOTES = {
    "gone": "its firewall is not loaded, and whatever listens there is reached by everybody; type"
    " there: systemctl restart tierstack-firewall",
    "closed": "its firewall has lost its rules, and lets in nothing but SSH; type: pyinfra {inventory}"
    " deploy.py",
}

#: Of which certificate a tier's line tells, as `look.py` calls it.
_CERTIFICATES = {
    "balancer": ("front", "its certificate"),
    "db": ("database", "its certificate"),
    "web": ("CA", "the cluster's CA"),
}

_Rotation = dict[str, dict[str, Server]]


@dataclass(frozen=True)
class Node:
    """
    One line of the table.

    Args:
        tier: its tier.
        host: its host.
        state: in a word or two: "up", "primary", "out of rotation", "does not answer".
        serves: what it does at present.
        notes: what is wrong or worth knowing.
        good: whether nothing is wrong.
    """

    tier: str
    host: str
    state: str
    serves: str = ""
    notes: str = ""
    good: bool = True

    def as_dict(self) -> dict[str, Any]:
        """Return the line for `--json`."""
        return asdict(self)


class NodeState(RemoteFact):
    """What `look.py` says of a host, or what its shell says; one execution."""

    def process(self, output: list[str]) -> dict[str, Any]:
        what = noise(output)
        return {"noise": what} if what else super().process(output)


def survey(cluster: Cluster) -> list[Node]:
    """
    Ask every host of a cluster how it is.

    Returns:
        A line a tier and host, balancers first.
    """
    logging.getLogger("pyinfra").setLevel(logging.CRITICAL)  # The table tells it better.
    state = State()
    with ctx_state.use(state):
        inventory = make_inventory(str(cluster.inventory))
        with ctx_inventory.use(inventory):
            state.init(inventory, Config(CONNECT_TIMEOUT=_CONNECT_TIMEOUT_S))
            asked = {
                host.name: gevent.spawn(_ask, cluster, cluster.host(host.name), host)
                for host in inventory
            }
            answers = {name: greenlet.get() for name, greenlet in asked.items()}
            others = _ask_others(cluster, answers, {host.name: host for host in inventory})
    return judge(cluster, answers, others)


def _ask_others(
    cluster: Cluster,
    answers: Mapping[str, dict[str, Any] | str],
    connected: Mapping[str, PyinfraHost],
) -> dict[str, dict[str, Any]]:
    """Return what hosts are that web hosts have as database hosts and the inventory has not."""
    used = {
        address
        for said in answers.values()
        if isinstance(said, dict)
        for address in said.get("database_hosts", ())
    }
    addresses = sorted(used - {host.address for host in cluster.tier("db")})
    primaries = [name for name, said in answers.items() if _is_primary(said)]
    if not addresses or not primaries:
        return {}
    host = connected[primaries[0]]
    with ctx_host.use(host), contextlib.suppress(ConnectError, PyinfraError):
        try:
            host.connect(show_errors=False, raise_exceptions=True)
            stdin = ask_peers(addresses, cluster.settings.db.port)
            found: dict[str, dict[str, Any]] = host.get_fact(Peers, _stdin=stdin)
            return found
        finally:
            with contextlib.suppress(Exception):
                host.disconnect()
    return {}


def _is_primary(said: dict[str, Any] | str) -> bool:
    if not isinstance(said, dict):
        return False
    db = said.get("db", {})
    return bool(db.get("running")) and not db["in_recovery"]


def _ask(cluster: Cluster, host: Host, connected: PyinfraHost) -> dict[str, Any] | str:
    """Return what a host says of itself, or why it says nothing."""
    settings = cluster.settings
    request = {
        "tiers": host.tiers,
        "address": host.address,
        "sites": [site.name for site in cluster.sites],
        "units": [
            *(UNITS[tier].removesuffix(".service") for tier in host.tiers),
            *(COPY_UNITS.values() if cluster.copies and "media" in host.tiers else ()),
        ],
        "web_port": settings.web.port,
        "media_port": settings.media.port,
        "cache_port": settings.cache.port,
        "share_port": settings.media.share_port,
    }
    with ctx_host.use(connected):
        try:
            connected.connect(show_errors=False, raise_exceptions=True)
            found: dict[str, Any] | None = connected.get_fact(
                NodeState, _stdin=program("look.py", request, "other_firewall.py")
            )
            if found and "noise" in found:
                return str(found["noise"])
            if found and "balancer" in host.tiers:
                found["servers"] = connected.get_fact(HaproxyStat)
            if found and "db" in host.tiers:
                asked = look(host.address, settings.db.port)
                found["db"] = connected.get_fact(DbState, _stdin=asked)
        except ConnectError as error:
            return advice(error, cluster.inventory) or str(error)
        except PyinfraError:  # The fact failed; its own words are on the host's standard error.
            found = None
        finally:
            with contextlib.suppress(Exception):
                connected.disconnect()
    return found or "cannot be asked: python3 or root rights are missing"


# Judging


def judge(
    cluster: Cluster,
    answers: Mapping[str, dict[str, Any] | str],
    others: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[Node]:
    """
    Turn what hosts said into lines.

    Args:
        cluster: what should be.
        answers: by host name, what it said, or why it said nothing.
        others: what database servers are that web hosts use and the inventory does not name, by
            address.
    """
    cluster = _with_media_home(cluster, answers)
    rotation = _rotation(cluster, answers)
    nodes = []
    for tier in TIERS:
        for host in cluster.tier(tier):
            said = answers[host.name]
            if isinstance(said, str):
                nodes.append(Node(tier, host.name, "does not answer", notes=said, good=False))
                continue
            unit = UNITS[tier].removesuffix(".service")
            if said["units"][unit] not in ("active", "reloading"):
                note = f"{unit} is {said['units'][unit]}; look: journalctl -u {unit}"
                if tier == "db":
                    note = _unfinished(cluster, said["db"]) or note
                nodes.append(Node(tier, host.name, "down", notes=note, good=False))
                continue
            nodes.append(_JUDGES[tier](cluster, host, said, rotation))
    nodes = _with_second_writers(_with_primary_count(nodes), answers, others or {})
    nodes = _with_certificates(cluster, nodes, answers, datetime.datetime.now(datetime.UTC))
    return _with_firewalls(cluster, nodes, answers)


def _with_certificates(
    cluster: Cluster,
    nodes: Sequence[Node],
    answers: Mapping[str, dict[str, Any] | str],
    now: datetime.datetime,
) -> list[Node]:
    """Say until when the front door's certificate is good, and which one of a node's is nearly over."""
    found = []
    for node in nodes:
        said = answers[node.host]
        kind, what = _CERTIFICATES.get(node.tier, ("", ""))
        pems = said.get("certificates", {}).get(kind) if isinstance(said, dict) else None
        ends = ends_of(pems or ())
        if ends is None:
            found.append(node)
            continue
        serves = node.serves
        if kind == "front" and serves:
            serves += f", certificate until {ends:%Y-%m-%d}"
        own = kind != "front" or cluster.settings.balancer.certificate is None
        left = ends - now
        note = ""
        if left < (RENEWED_BEFORE if own else datetime.timedelta(days=WARN_DAYS)):
            over = "has ended" if left.total_seconds() < 0 else "ends"
            way = "deploy, which renews it" if own else "renew it, and deploy"
            note = f"{what} {over} on {ends:%Y-%m-%d}; {way}"
        good = node.good and not (note and left.days < WARN_DAYS)
        notes = "; ".join(filter(None, [node.notes, note]))
        found.append(replace(node, serves=serves, notes=notes, good=good))
    return found


def _with_media_home(cluster: Cluster, answers: Mapping[str, dict[str, Any] | str]) -> Cluster:
    """Return the cluster with MEDIA_ROOT on the one host that says so; else where it was declared."""
    homes = [
        name
        for name, said in answers.items()
        if isinstance(said, dict) and "home" in said.get("marks", {}).values()
    ]
    return cluster.with_media_home(homes[0]) if len(homes) == 1 else cluster


def _rotation(cluster: Cluster, answers: Mapping[str, dict[str, Any] | str]) -> _Rotation:
    """Return what each balancer says of each server: host name to balancer name to server."""
    seen: _Rotation = {}
    for balancer in cluster.tier("balancer"):
        said = answers[balancer.name]
        for server in said.get("servers", []) if isinstance(said, dict) else []:
            seen.setdefault(server.name, {})[balancer.name] = server
    return seen


def _judge_balancer(
    cluster: Cluster, host: Host, said: dict[str, Any], rotation: _Rotation
) -> Node:
    if not said["servers"]:
        note = "its socket does not answer; look: journalctl -u haproxy"
        return Node("balancer", host.name, "up", notes=note, good=False)
    nodes = [*cluster.tier("web"), *cluster.tier("media")]
    up_here = {server.name for server in said["servers"] if server.up}
    up = [node for node in nodes if node.name in up_here]
    serves = f"{len(up)} of {len(nodes)} nodes in rotation"
    missing = ", ".join(node.name for node in nodes if node not in up)
    notes = f"not in rotation: {missing}" if missing else ""
    return Node("balancer", host.name, "up", serves, notes, good=not missing)


def _in_rotation(host: Host, rotation: _Rotation) -> str:
    """Return what is missing until all balancers send visitors, or an empty string."""
    if host.name not in rotation:
        return "no balancer sends visitors"
    seen = sorted(rotation[host.name].items())
    return ", ".join(f"{balancer} says {node.status}" for balancer, node in seen if not node.up)


def _judge_web(cluster: Cluster, host: Host, said: dict[str, Any], rotation: _Rotation) -> Node:
    serves = ", ".join(f"{site} {release}" for site, release in said["releases"].items())
    if said["hold"]:
        note = f"held back: {said['hold']}"
        return Node("web", host.name, "out of rotation", serves, note, good=False)
    if said["drain"] or said["web"] != 200:
        note = f"its health page answers {said['web'] or 'nothing'}"
        return Node("web", host.name, "out of rotation", serves, note, good=False)
    if out := _in_rotation(host, rotation):
        return Node("web", host.name, "out of rotation", serves, out, good=False)
    wrong = _other_sites(cluster, said) or _lost_mounts(cluster, host, said)
    return Node("web", host.name, "in rotation", serves, wrong, good=not wrong)


def _other_sites(cluster: Cluster, said: dict[str, Any]) -> str:
    """Return which sites a web host serves instead of the inventory's, or an empty string."""
    missing = [site for site, release in said["releases"].items() if not release]
    ours = {site.name for site in cluster.sites}
    others = [site for site in said["noted"] if site not in ours]
    notes = [f"has no release of {listed(missing)}"] if missing else []
    if others:
        notes.append(
            f"serves {listed(others)}, which the inventory has no more; type: tierstack plan"
            f" {cluster.inventory}"
        )
    return "; ".join(notes)


def _lost_mounts(cluster: Cluster, host: Host, said: dict[str, Any]) -> str:
    # On the host that exports it, MEDIA_ROOT is its own disk.
    if not cluster.mounts_share(host):
        return ""
    lost = [site for site, mounted in said["mounts"].items() if not mounted]
    return f"MEDIA_ROOT is not mounted for {', '.join(lost)}" if lost else ""


def _judge_db(cluster: Cluster, host: Host, said: dict[str, Any], rotation: _Rotation) -> Node:
    db = said["db"]
    if not db.get("running"):
        note = db.get("problem") or "PostgreSQL does not answer"
        return Node("db", host.name, "down", notes=note, good=False)
    if db["in_recovery"]:
        lag = float(db["lag_s"] or 0)
        streaming = streams(db)
        notes = "" if streaming else "does not receive from the primary"
        if streaming and lag > _LAG_LIMIT_S:
            notes = "far behind"
        notes = _unfinished(cluster, db) or notes
        return Node("db", host.name, "standby", f"{lag:.1f} s behind", notes, good=not notes)
    expected = len(cluster.tier("db")) - 1
    following = sum(standby["state"] == "streaming" for standby in db["standbys"])
    serves = f"{following} of {expected} standbys follow" if expected else ""
    lost = _lost_standbys(cluster, host, db["slots"])
    notes = lost or ("a standby is missing" if following < expected else "")
    return Node("db", host.name, "primary", serves, notes, good=not notes)


def _unfinished(cluster: Cluster, db: Mapping[str, Any]) -> str:
    """Return that a host has made way and does not count as a standby yet, and what to type."""
    heir = db.get("made_way_for")
    if not heir:
        return ""
    command = switch_to(heir, str(cluster.inventory))
    return f"it made way for {heir} in a switchover that did not end; type: {command}"


def _lost_standbys(cluster: Cluster, primary: Host, slots: Sequence[Mapping[str, Any]]) -> str:
    """Return which standbys cannot catch up or soon could not, since when, and what to type."""
    names = {slot_name(host.name): host.name for host in cluster.tier("db")}
    kept = f"{cluster.settings.db.slot_keep_mb} MiB of WAL (db.slot_keep_mb)"
    notes = []
    for slot in slots:
        name = names.get(slot["name"], slot["name"])
        if slot["wal_status"] == "lost":
            notes.append(
                f"{name} is lost since {slot['lost_at']} UTC: it was away for more than {kept}; no row is"
                f" lost; bring it up, then type: pyinfra {quoted(cluster.inventory)} deploy.py, which rebuilds it"
            )
        elif slot["wal_status"] == "unreserved":
            notes.append(
                f"{name} has been away for more than {kept}, and {primary.name} is about to drop what it"
                " lacks; bring it up now"
            )
    return "; ".join(notes)


def _judge_cache(cluster: Cluster, host: Host, said: dict[str, Any], rotation: _Rotation) -> Node:
    if said["cache"]:
        return Node("cache", host.name, "up", "cached values")
    return Node("cache", host.name, "down", notes="memcached does not answer", good=False)


def _judge_media(cluster: Cluster, host: Host, said: dict[str, Any], rotation: _Rotation) -> Node:
    if said["media"] != 200:
        note = f"its health page answers {said['media'] or 'nothing'}"
        return Node("media", host.name, "out of rotation", notes=note, good=False)
    out = _in_rotation(host, rotation)
    serves = "media and static files"
    if host == cluster.exporter:
        serves += f", {cluster.settings.media.share} share"
    if cluster.copies and host == cluster.media_home:
        serves += ", home of uploads"
    elif host in cluster.copies:
        serves += f", copy of uploads from {cluster.media_home.name}"
    state = "out of rotation" if out else "in rotation"
    wrong = (
        out
        or _second_home(cluster, host, said)
        or _lost_mounts(cluster, host, said)
        or _no_copies(cluster, host, said)
    )
    return Node("media", host.name, state, serves, wrong, good=not wrong)


def _second_home(cluster: Cluster, host: Host, said: dict[str, Any]) -> str:
    """Return that a host has uploads though another one does, and who says what to type."""
    if host == cluster.media_home or "home" not in said.get("marks", {}).values():
        return ""
    return "it says that it has the uploads, as another host does; a deploy says what to type"


def _no_copies(cluster: Cluster, host: Host, said: dict[str, Any]) -> str:
    """Return what is missing until uploads reach every media host, or an empty string."""
    unit = COPY_UNITS["copy" if host in cluster.copies else "home"]
    taking_part = cluster.copies and host in (*cluster.copies, cluster.media_home)
    if not taking_part or said["units"][unit] == "active":
        return ""
    return f"{unit} is {said['units'][unit]}, and new uploads reach no copy; look: journalctl -u {unit}"


def _judge_storage(cluster: Cluster, host: Host, said: dict[str, Any], rotation: _Rotation) -> Node:
    if said["share"]:
        return Node("storage", host.name, "up", f"{cluster.settings.media.share} share")
    note = "the share of MEDIA_ROOT does not answer; look: journalctl -u nfs-server"
    return Node("storage", host.name, "down", notes=note, good=False)


_JUDGES = {
    "balancer": _judge_balancer,
    "web": _judge_web,
    "db": _judge_db,
    "cache": _judge_cache,
    "storage": _judge_storage,
    "media": _judge_media,
}


def _with_firewalls(
    cluster: Cluster, nodes: list[Node], answers: Mapping[str, dict[str, Any] | str]
) -> list[Node]:
    """Name each host whose firewall is not what it should be, in its first line."""
    wrong: dict[str, str] = {}
    for name, said in answers.items():
        if not isinstance(said, dict):
            continue
        if state := said.get("firewall"):
            wrong[name] = _FIREWALL_NOTES[state].format(inventory=quoted(cluster.inventory))
        elif other := said.get("other_firewall"):
            wrong[name] = shut_by_other(cluster, cluster.host(name), other)
    return [
        replace(node, notes="; ".join(filter(None, (node.notes, wrong.pop(node.host)))), good=False)
        if wrong.get(node.host)
        else node
        for node in nodes
    ]


def _with_second_writers(
    nodes: list[Node],
    answers: Mapping[str, dict[str, Any] | str],
    others: Mapping[str, Mapping[str, Any]],
) -> list[Node]:
    """Mark the primary's line where web hosts have another one to write to, outside the inventory."""
    ours = {said["db"]["system_id"] for said in answers.values() if _has_database(said)}
    writers = [
        address
        for address, said in others.items()
        if said["is"] == "primary" and said["system_id"] in ours
    ]
    if not writers:
        return nodes
    wrong = (
        f"{listed(writers)} {'takes' if len(writers) == 1 else 'take'} writes as well, and web hosts"
        " may write there; a deploy says what to type"
    )
    return [
        Node(n.tier, n.host, n.state, n.serves, wrong, good=False)
        if n.tier == "db" and n.state == "primary"
        else n
        for n in nodes
    ]


def _has_database(said: dict[str, Any] | str) -> TypeGuard[dict[str, Any]]:
    return isinstance(said, dict) and bool(said.get("db", {}).get("system_id"))


def _with_primary_count(nodes: list[Node]) -> list[Node]:
    """Mark database lines when there is not exactly one primary."""
    primaries = [node.host for node in nodes if node.state == "primary"]
    if len(primaries) == 1:
        return nodes
    wrong = "no primary"
    if primaries:
        wrong = f"{listed(primaries)} take writes, each its own; a deploy says what to type"
    return [
        Node(n.tier, n.host, n.state, n.serves, wrong, good=False)
        # Two that take writes are worse than a standby that is missing.
        if n.tier == "db" and (n.good or n.state == "primary")
        else n
        for n in nodes
    ]
