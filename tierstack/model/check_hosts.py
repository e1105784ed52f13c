"""The hosts of an inventory: names, addresses, tiers, and what a host that stands twice says."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from typing import Any

from tierstack.model.cluster import TIERS, Host
from tierstack.model.errors import Mistake
from tierstack.model.raw import RawInventory, nearest, validate
from tierstack.model.settings import HostSettings

_HOST_NAME = re.compile(r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$")


def check_hosts(raw: RawInventory, mistakes: list[Mistake]) -> tuple[Host, ...]:
    """Return the hosts whose lines are right, in inventory order; add what is wrong with the others."""
    tiers_of: dict[str, list[str]] = {}
    data_of: dict[str, dict[str, Any]] = {}
    where_of: dict[str, str] = {}
    for group, lines in raw.groups.items():
        if group not in TIERS:
            mistakes.append(Mistake(group, f"is not a tier; {nearest(group, TIERS)}"))
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
