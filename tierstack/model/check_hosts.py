"""The hosts of an inventory: names, addresses, tiers, and what a host that stands twice says."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tierstack.model.cluster import TIERS, Host
from tierstack.model.errors import Mistake
from tierstack.model.names import owner_of_host_name
from tierstack.model.raw import RawInventory, nearest, validate
from tierstack.model.settings import HostSettings

_HOST_NAME = re.compile(r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$")

#: Addresses that stand in documents and belong to nobody: what `tierstack new` writes, too.
#: Source: RFC 5737.
_EXAMPLES = tuple(
    ipaddress.IPv4Network(network)
    for network in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24")
)


@dataclass(frozen=True)
class _Line:
    """A host's line in one tier."""

    tier: str
    where: str
    data: Mapping[str, Any]


def check_hosts(raw: RawInventory, mistakes: list[Mistake]) -> tuple[Host, ...]:
    """Return the hosts whose lines are right, in inventory order; add what is wrong with the others."""
    lines_of: dict[str, list[_Line]] = {}
    for group, lines in raw.groups.items():
        if group not in TIERS:
            mistakes.append(Mistake(group, f"is not a tier; {nearest(group, TIERS)}"))
            continue
        if not lines:
            mistakes.append(Mistake(group, "has no host; write one, or delete the line"))
        for index, line in enumerate(lines):
            where = f"{group}[{index}]"
            parsed = _host_line(line, where, mistakes)
            if parsed is None:
                continue
            name, data = parsed
            if owner := owner_of_host_name(name, TIERS, raw.file.stem):
                what = f'"{name}" is {owner}, and no name for a host; write another, e.g. "{name.partition(".")[0]}1"'
                mistakes.append(Mistake(where, what))
                continue
            known = lines_of.setdefault(name, [])
            if any(other.tier == group for other in known):
                mistakes.append(
                    Mistake(where, f'host name "{name}" stands twice in {group}; delete one line')
                )
                continue
            known.append(_Line(group, where, data))
    hosts = []
    owner_of: dict[str, str] = {}
    for name, found in lines_of.items():
        # In the order of the tiers: whichever group is declared first, the words are the same.
        found.sort(key=lambda line: TIERS.index(line.tier))
        data = _merge(name, found, mistakes)
        _check_group_data(name, found, data, raw, mistakes)
        host = _host(name, data, found, raw, mistakes)
        if host is None:
            continue
        if host.address in owner_of:
            mistakes.append(
                Mistake(
                    f"{found[0].where}.address",
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


def _merge(name: str, lines: Sequence[_Line], mistakes: list[Mistake]) -> dict[str, Any]:
    """Return the data of a host that may stand in several groups; the same key must say the same."""
    merged: dict[str, Any] = {}
    first: dict[str, str] = {}
    for line in lines:
        for key, value in line.data.items():
            if key in merged and merged[key] != value:
                what = (
                    f"{name} has {value!r} here and {merged[key]!r} in {first[key]};"
                    " write the same in both"
                )
                mistakes.append(Mistake(f"{line.where}.{key}", what))
            merged.setdefault(key, value)
            first.setdefault(key, line.where)
    return merged


def _check_group_data(
    name: str,
    lines: Sequence[_Line],
    data: Mapping[str, Any],
    raw: RawInventory,
    mistakes: list[Mistake],
) -> None:
    """
    Refuse what the files of two tiers say differently of one host.

    Only pyinfra's own keys can clash, e.g. `ssh_user`: a tier's settings hold for that tier alone.
    pyinfra takes the group that was declared last.
    """
    decided = {*data, *raw.group_data.get(raw.file.stem, ())}
    first: dict[str, tuple[str, Any]] = {}
    for line in lines:
        for key, value in raw.group_data.get(line.tier, {}).items():
            if key not in raw.passed_on or key in decided:
                continue
            tier, other = first.setdefault(key, (line.tier, value))
            if other != value:
                what = (
                    f"{name} has {value!r} by this and {other!r} by group_data/{tier}.py;"
                    f' write "{key}" in its line, {lines[0].where}'
                )
                mistakes.append(Mistake(f"group_data/{line.tier}.py: {key}", what))


def _by_group_data(key: str, lines: Sequence[_Line], raw: RawInventory) -> Any:
    """Return what group data says of one of pyinfra's keys for a host; the later file wins."""
    said = None
    for group in ("all", *(line.tier for line in lines), raw.file.stem):
        said = raw.group_data.get(group, {}).get(key, said)
    return said


def _host(
    name: str,
    data: Mapping[str, Any],
    lines: Sequence[_Line],
    raw: RawInventory,
    mistakes: list[Mistake],
) -> Host | None:
    where = lines[0].where
    own = {key: value for key, value in data.items() if key not in raw.passed_on}
    before = len(mistakes)
    settings = validate(HostSettings, own, where, mistakes, extra_known=raw.passed_on)
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
    if any(ip in network for network in _EXAMPLES):
        what = f"{address} is an example's address, which no host has; write the address of {name}"
        mistakes.append(Mistake(f"{where}.address", what))
        return None
    port = data.get("ssh_port", _by_group_data("ssh_port", lines, raw) or 22)
    if not isinstance(port, int) or not 1 <= port <= 65535:
        mistakes.append(
            Mistake(f"{where}.ssh_port", f"{port!r} is not a port; write a number, e.g. 22")
        )
        return None
    return Host(
        name=name,
        address=address,
        tiers=tuple(line.tier for line in lines),
        line=where,
        ssh_port=port,
        memory_mb=settings.memory_mb,
    )
