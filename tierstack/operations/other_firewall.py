"""Part of programs that run on a host: which firewall of somebody else is at work there, what it opens.

Each table of the kernel's has its say: what ufw or firewalld drops stays out, whatever ours accepts.
"""

import contextlib
import re
import socket
import subprocess
from typing import Any


def other_firewall() -> dict[str, Any]:
    """
    Return the name of a firewall that is not ours, "" if none is at work, and what it lets in.

    `opened` lists protocol and port of what it has a rule for, from wherever; None is anything.
    """
    verbose = _said("ufw", "status", "verbose")
    if "Status: active" in verbose:
        return {"name": "ufw", "opened": opened_by_ufw(verbose, _said("ufw", "show", "added"))}
    if _said("firewall-cmd", "--state").strip() == "running":
        return {
            "name": "firewalld",
            "opened": opened_by_firewalld(_said("firewall-cmd", "--list-all")),
        }
    return {"name": "", "opened": None}


def opened_by_ufw(verbose: str, added: str) -> list[list[Any]] | None:
    """Read `ufw status verbose` and `ufw show added`, whose lines are as one would type them."""
    if "Default: allow (incoming)" in verbose:
        return None
    found = set()
    for line in added.splitlines():
        if not re.match(r"ufw (allow|limit)\b", line):
            continue
        port = re.search(r"\bport (\d+)(?: proto (tcp|udp))?", line)
        port = port or re.search(r"(?:allow|limit)(?: in)? (\d+)(?:/(tcp|udp))?\b", line)
        name = re.search(r"(?:allow|limit)(?: in)? ([a-z][\w-]*)(?:/(tcp|udp))?$", line)
        if port:
            found |= {
                (protocol, int(port[1]))
                for protocol in ("tcp", "udp")
                if port[2] in (None, protocol)
            }
        elif name:
            found |= _service(name[1])
    return [list(one) for one in sorted(found)]


def opened_by_firewalld(text: str) -> list[list[Any]] | None:
    """Read `firewall-cmd --list-all`, of the zone that is used where no other is named."""
    if re.search(r"^\s*target: ACCEPT$", text, re.M):
        return None
    found = {(protocol, int(port)) for port, protocol in re.findall(r"\b(\d+)/(tcp|udp)\b", text)}
    rich = re.findall(r'port port="(\d+)" protocol="(tcp|udp)".* accept', text)
    found |= {(protocol, int(port)) for port, protocol in rich}
    services = re.search(r"^\s*services: (.*)$", text, re.M)
    for name in services[1].split() if services else ():
        found |= _service(name)
    return [list(one) for one in sorted(found)]


def _service(name: str) -> set[tuple[str, int]]:
    found = set()
    for protocol in ("tcp", "udp"):
        with contextlib.suppress(OSError):  # It has none of that protocol.
            found.add((protocol, socket.getservbyname(name, protocol)))
    return found


def _said(*command: str) -> str:
    try:
        return subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True, errors="replace", timeout=20, check=False,
        ).stdout  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return ""
