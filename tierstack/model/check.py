"""From raw inventory data to a checked cluster, or the list of all that is wrong with it."""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from tierstack.model.cluster import FIRST_SITE_UID, TIERS, Cluster, Host, Site, derive_flows
from tierstack.model.errors import InventoryError, Mistake
from tierstack.model.settings import TIER_SETTINGS, HostSettings, Settings, SiteSettings
from tierstack.model.sizing import check_capacity

_M = TypeVar("_M", bound=BaseModel)

#: Accounts and databases that Debian, PostgreSQL or the cluster itself has.
_RESERVED_NAMES = frozenset(
    [
        "root",
        "daemon",
        "bin",
        "sys",
        "sync",
        "games",
        "man",
        "lp",
        "mail",
        "news",
        "uucp",
        "proxy",
        "www-data",
        "backup",
        "list",
        "irc",
        "nobody",
        "messagebus",
        "sshd",
        "postgres",
        "memcache",
        "haproxy",
        "template0",
        "template1",
        "public",
        "tierstack",
        "tierstack-replication",
    ]
)

_HOST_NAME = re.compile(r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$")


@dataclass(frozen=True)
class RawInventory:
    """
    What the user wrote, read but not judged.

    Args:
        path: the inventory file, as messages should name it.
        file: the inventory file, absolute.
        home: the directory that holds `group_data/`.
        groups: group name to its hosts, each a name or a pair of name and data.
        group_data: group name to its settings, with the file that they come from.
        passed_on: keys that are pyinfra's own (`ssh_user`, `_sudo`, ...), accepted unread.
        mistakes: what was already found wrong while reading, e.g. a syntax error.
    """

    path: str
    file: Path
    home: Path
    groups: Mapping[str, Sequence[Any]]
    group_data: Mapping[str, Mapping[str, Any]]
    passed_on: Collection[str] = ()
    mistakes: Sequence[Mistake] = field(default_factory=tuple)


def check(raw: RawInventory) -> Cluster:
    """
    Return the cluster that an inventory describes.

    Raises:
        InventoryError: with every mistake that could be found, sorted.
    """
    mistakes = list(raw.mistakes)
    hosts = _hosts(raw, mistakes)
    settings = _settings(raw, mistakes)
    _check_tiers(raw, mistakes)
    sites = _sites(raw, settings, mistakes) if settings else ()
    if settings is None or mistakes:
        raise InventoryError(raw.path, mistakes)
    cluster = Cluster(
        name=raw.file.stem,
        inventory=raw.file,
        home=raw.home,
        hosts=hosts,
        sites=sites,
        settings=settings,
        flows=derive_flows({tier for host in hosts for tier in host.tiers}, settings),
    )
    mistakes += check_capacity(cluster)
    mistakes += _check_standbys(cluster)
    mistakes += _check_files(cluster)
    if mistakes:
        raise InventoryError(raw.path, mistakes)
    return cluster


def _nearest(key: str, known: Collection[str]) -> str:
    """Return what to write instead of an unknown key."""
    close = difflib.get_close_matches(key, sorted(known), n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]}?"
    return "known are " + ", ".join(sorted(known))


# Hosts


def _hosts(raw: RawInventory, mistakes: list[Mistake]) -> tuple[Host, ...]:
    tiers_of: dict[str, list[str]] = {}
    data_of: dict[str, dict[str, Any]] = {}
    where_of: dict[str, str] = {}
    for group, lines in raw.groups.items():
        if group not in TIERS:
            mistakes.append(Mistake(group, f"is not a tier; {_nearest(group, TIERS)}"))
            continue
        if not lines:
            mistakes.append(Mistake(group, "has no host; write one, or delete the line"))
        names_here: set[str] = set()
        for index, line in enumerate(lines):
            where = f"{group}[{index}]"
            parsed = _host_line(line, where, mistakes)
            if parsed is None:
                continue
            name, data = parsed
            if name in names_here:
                mistakes.append(
                    Mistake(where, f'host name "{name}" stands twice in {group}; delete one line')
                )
                continue
            names_here.add(name)
            tiers_of.setdefault(name, []).append(group)
            where_of.setdefault(name, where)
            _merge(data_of.setdefault(name, {}), data, where, where_of[name], name, mistakes)
    hosts = []
    owner_of: dict[str, str] = {}
    for name, data in data_of.items():
        host = _host(name, data, tiers_of[name], where_of[name], raw, mistakes)
        if host is None:
            continue
        if host.address in owner_of:
            mistakes.append(
                Mistake(
                    f"{where_of[name]}.address",
                    f"{host.address} already belongs to {owner_of[host.address]};"
                    " write the address of this host",
                )
            )
        owner_of.setdefault(host.address, name)
        hosts.append(host)
    return tuple(hosts)


def _host_line(
    line: Any, where: str, mistakes: list[Mistake]
) -> tuple[str, Mapping[str, Any]] | None:
    name, data = line if isinstance(line, tuple) and len(line) == 2 else (line, {})
    if not isinstance(name, str) or not isinstance(data, Mapping):
        mistakes.append(
            Mistake(
                where, f'{line!r} is not a host; write e.g. ("web1", {{"address": "10.0.0.11"}})'
            )
        )
        return None
    if not _HOST_NAME.match(name):
        mistakes.append(
            Mistake(
                where, f'"{name}" is not a host name; write small letters, digits, hyphens and dots'
            )
        )
        return None
    return name, data


def _merge(
    into: dict[str, Any],
    data: Mapping[str, Any],
    where: str,
    first: str,
    name: str,
    mistakes: list[Mistake],
) -> None:
    """Merge the data of a host that stands in several groups; the same key must say the same."""
    for key, value in data.items():
        if key in into and into[key] != value:
            mistakes.append(
                Mistake(
                    f"{where}.{key}",
                    f"{name} has {value!r} here and {into[key]!r} in {first}; write the same in both",
                )
            )
        into.setdefault(key, value)


def _host(
    name: str,
    data: Mapping[str, Any],
    tiers: Sequence[str],
    where: str,
    raw: RawInventory,
    mistakes: list[Mistake],
) -> Host | None:
    own = {key: value for key, value in data.items() if key not in raw.passed_on}
    before = len(mistakes)
    settings = _validate(HostSettings, own, where, mistakes, extra_known=raw.passed_on)
    if settings is None or len(mistakes) > before:
        return None
    address = settings.address or name
    try:
        ip = ipaddress.IPv4Address(address)
    except ValueError:
        if settings.address is None:
            what = f'{name} has no address; write ("{name}", {{"address": "10.0.0.11"}})'
        else:
            what = f'"{address}" is not an IPv4 address; write e.g. "10.0.3.30"'
        mistakes.append(Mistake(f"{where}.address", what))
        return None
    if ip.is_loopback or ip.is_multicast or ip.is_unspecified:
        mistakes.append(
            Mistake(
                f"{where}.address",
                f'"{address}" cannot be reached by other hosts; write the host\'s address in the cluster',
            )
        )
        return None
    port = data.get("ssh_port", 22)
    if not isinstance(port, int) or not 1 <= port <= 65535:
        mistakes.append(
            Mistake(f"{where}.ssh_port", f"{port!r} is not a port; write a number, e.g. 22")
        )
        return None
    return Host(
        name=name,
        address=address,
        tiers=tuple(tier for tier in TIERS if tier in tiers),
        ssh_port=port,
        memory_mb=settings.memory_mb,
    )


def _check_tiers(raw: RawInventory, mistakes: list[Mistake]) -> None:
    example = 'write e.g. {0} = [("{0}1", {{"address": "10.0.0.{1}"}})]'
    for tier, number, why in (
        ("web", 11, "nothing serves the site without one"),
        ("db", 21, "the site keeps its data there"),
        ("cache", 31, "web hosts keep cached values there"),
        ("media", 41, "uploaded and static files lie there"),
        ("balancer", 10, "visitors come in there"),
    ):
        if tier not in raw.groups:
            what = f"no {tier} host, and {why}; {example.format(tier, number)}"
            mistakes.append(Mistake(tier, what))
    if len(raw.groups.get("media", ())) > 1:
        mistakes.append(
            Mistake("media", "more than one media host is not supported yet; write one")
        )


# Settings


def _settings(raw: RawInventory, mistakes: list[Mistake]) -> Settings | None:
    """
    Merge group data into settings.

    Later wins: `all.py`, then the tier's own file, then the file named after the inventory.
    """
    merged: dict[str, dict[str, Any]] = {tier: {} for tier in TIER_SETTINGS}
    where: dict[str, str] = {tier: tier for tier in TIER_SETTINGS}
    sites: Any = None
    top_known = {"sites", *TIER_SETTINGS}
    for group, data in raw.group_data.items():
        for key, value in data.items():
            if key in raw.passed_on:
                continue
            if group in TIER_SETTINGS:
                merged[group][key] = value
            elif key == "sites":
                sites = value
            elif key in TIER_SETTINGS:
                if isinstance(value, Mapping):
                    merged[key] |= value
                else:
                    mistakes.append(
                        Mistake(key, f"{value!r} is not a dict; write e.g. {key} = dict(port=8080)")
                    )
            else:
                mistakes.append(
                    Mistake(f"group_data/{group}.py: {key}", f"unknown; {_nearest(key, top_known)}")
                )
    parts: dict[str, Any] = {}
    before = len(mistakes)
    for tier, model in TIER_SETTINGS.items():
        parts[tier] = _validate(model, merged[tier], where[tier], mistakes)
    parts["sites"] = _site_settings(sites, mistakes)
    if len(mistakes) > before:
        return None
    return Settings.model_construct(**parts)


def _site_settings(sites: Any, mistakes: list[Mistake]) -> list[SiteSettings]:
    example = (
        'sites = [dict(name="mysite", source="mysite", settings="mysite.settings",'
        ' domains=["www.example.com"])]'
    )
    if not sites:
        mistakes.append(Mistake("sites", f"no site; write in group_data/all.py: {example}"))
        return []
    if not isinstance(sites, list):
        mistakes.append(Mistake("sites", f"{sites!r} is not a list; write {example}"))
        return []
    found = []
    for index, value in enumerate(sites):
        if not isinstance(value, Mapping):
            mistakes.append(Mistake(f"sites[{index}]", f"{value!r} is not a dict; write {example}"))
            continue
        site = _validate(SiteSettings, dict(value), f"sites[{index}]", mistakes)
        if site is not None:
            found.append(site)
    return found


def _validate(
    model: type[_M],
    data: Mapping[str, Any],
    where: str,
    mistakes: list[Mistake],
    extra_known: Collection[str] = (),
) -> _M | None:
    """Validate one settings class and put pydantic's findings into our words."""
    try:
        return model.model_validate(dict(data))
    except ValidationError as error:
        for found in error.errors():
            key = "".join(
                f"[{part}]" if isinstance(part, int) else f".{part}" for part in found["loc"]
            )
            known = set(model.model_fields) | set(extra_known)
            what = _in_our_words(dict(found), known, model)
            mistakes.append(Mistake(f"{where}{key}", what))
        return None


_TYPE_WORDS = {
    "int_type": "a whole number",
    "string_type": "a string",
    "bool_type": "True or False",
    "list_type": "a list",
    "dict_type": "a dict",
}


def _in_our_words(found: dict[str, Any], known: set[str], model: type[BaseModel]) -> str:
    kind, value, context = found["type"], found["input"], found.get("ctx", {})
    if kind == "extra_forbidden":
        return f"unknown; {_nearest(str(found['loc'][-1]), known)}"
    if kind == "missing":
        description = model.model_fields[str(found["loc"][0])].description
        return f"missing; {description}"
    if kind in _TYPE_WORDS:
        return f"{value!r} is not {_TYPE_WORDS[kind]}; write {_TYPE_WORDS[kind]}"
    if kind == "greater_than_equal":
        return f"{value!r} is too small; write at least {context['ge']}"
    if kind == "less_than_equal":
        return f"{value!r} is too large; write at most {context['le']}"
    if kind == "literal_error":
        return f"{value!r} is not known; write {context['expected']}"
    if kind == "too_short":
        return "is empty; write at least one"
    if kind == "value_error":
        return str(context["error"])
    if kind == "string_pattern_mismatch":
        field_info = model.model_fields[str(found["loc"][0])]
        return f"{value!r} does not fit; {field_info.description}"
    return f"{value!r}: {found['msg']}"


# Sites


def _sites(raw: RawInventory, settings: Settings, mistakes: list[Mistake]) -> tuple[Site, ...]:
    sites = []
    if len(settings.sites) > 1:
        mistakes.append(Mistake("sites", "more than one site is not supported yet; write one"))
    for index, site in enumerate(settings.sites):
        where = f"sites[{index}]"
        if site.name in _RESERVED_NAMES or site.name.startswith("pg-"):
            what = f'"{site.name}" belongs to the system or to PostgreSQL; choose another'
            mistakes.append(Mistake(f"{where}.name", what))
        source = (raw.home / Path(site.source).expanduser()).resolve()
        _check_source(site, source, where, mistakes)
        sites.append(Site(settings=site, source=source, uid=FIRST_SITE_UID + index))
    return tuple(sites)


def _check_source(site: SiteSettings, source: Path, where: str, mistakes: list[Mistake]) -> None:
    if not source.is_dir():
        mistakes.append(
            Mistake(
                f"{where}.source", f"{source} is not a directory; write where your project lies"
            )
        )
        return
    project = (source / site.project).resolve()
    if not project.is_relative_to(source):
        mistakes.append(
            Mistake(
                f"{where}.project", f'"{site.project}" leads out of {source}; write a folder in it'
            )
        )
    elif not (project / "manage.py").is_file():
        found = sorted(path.parent.relative_to(source) for path in source.glob("*/manage.py"))
        hint = f'project = "{found[0]}"' if found else "the folder that holds it"
        mistakes.append(Mistake(f"{where}.project", f"no manage.py in {project}; write {hint}"))
    if not (source / site.requirements).is_file():
        mistakes.append(
            Mistake(
                f"{where}.requirements",
                f"no {site.requirements} in {source}; write the name of the file that pip should read",
            )
        )


def _check_standbys(cluster: Cluster) -> list[Mistake]:
    standbys, allowed = len(cluster.tier("db")) - 1, cluster.settings.db.max_standbys
    if standbys <= allowed:
        return []
    what = (
        f"the inventory has {standbys} standbys, and the primary takes {allowed}; write {standbys}"
    )
    return [Mistake("db.max_standbys", what)]


def _check_files(cluster: Cluster) -> list[Mistake]:
    certificate = cluster.settings.balancer.certificate
    if certificate is None:
        return []
    path = cluster.home / Path(certificate).expanduser()
    if not path.is_file():
        return [
            Mistake(
                "balancer.certificate",
                f"{path} is not a file; write where the PEM file with chain and key lies",
            )
        ]
    for site in cluster.sites:
        if path.resolve().is_relative_to(site.source):
            what = f"{path} lies in the source of {site.name}, which goes to every web host; move it out"
            return [Mistake("balancer.certificate", what)]
    text = path.read_text(encoding="utf-8", errors="replace")
    if "BEGIN CERTIFICATE" not in text or "PRIVATE KEY" not in text:
        return [
            Mistake(
                "balancer.certificate",
                f"{path} must hold the certificate chain and its private key;"
                " write one file from both: cat fullchain.pem privkey.pem > site.pem",
            )
        ]
    return []
