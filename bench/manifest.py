"""Whether two tools have brought the same hosts to the same state."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tierstack.lab import Lab, LabError

#: What a host is like: by kind ("package", "file", …) and name, in words.
State = Mapping[str, Mapping[str, str]]

#: What may differ between two hosts that are the same otherwise: kind, pattern of names, why.
ALLOWED = (
    ("file", r"/etc/ssh/ssh_host_.*", "a new host makes its own SSH keys"),
    ("file", r"/etc/machine-id", "a new host gets its own"),
    (
        "file",
        r"/etc/ssl/(private|certs)/ssl-cert-snakeoil\..*",
        "the package ssl-cert makes them while it is installed; nothing uses them",
    ),
    (
        "file",
        r"/srv/.*/pip-[^/]*\.dist-info/RECORD",
        "it has sums of files that name the venv, and ours is a copy of another one",
    ),
    ("file", r"/etc/shadow-?", "it holds the day on which an account was made"),
    (
        "package",
        r"(python3-apt|python-apt-common|distro-info-data):.*",
        "Ansible's module `apt` installs them for itself",
    ),
)


def collect(lab: Lab, names: list[str]) -> dict[str, State]:
    """
    Return the state of hosts, by name.

    Raises:
        LabError: a host does not say it.
    """
    agent = Path(__file__).with_name("manifest_agent.py").read_text(encoding="utf-8")

    def one(name: str) -> State:
        done = lab.ssh(name, "python3 -", text_in=agent, timeout_s=300)
        if done.returncode != 0:
            raise LabError(f"{name} does not say what state it is in:\n{done.stderr}")
        state: State = json.loads(done.stdout)
        return state

    with ThreadPoolExecutor(4) as pool:
        return dict(zip(names, pool.map(one, names), strict=True))


def differences(ours: Mapping[str, State], theirs: Mapping[str, State]) -> list[str]:
    """
    Return how the hosts differ beyond what is allowed, a line each.

    Args:
        ours: by host, the state that Tierstack left.
        theirs: the same hosts as another tool left them.
    """
    found = []
    for host in sorted({*ours, *theirs}):
        one, other = ours.get(host, {}), theirs.get(host, {})
        for kind in sorted({*one, *other}):
            a, b = one.get(kind, {}), other.get(kind, {})
            for name in sorted({*a, *b}):
                if a.get(name) == b.get(name) or _allowed(kind, name):
                    continue
                said = [f'"{side[name]}"' if name in side else "nothing" for side in (a, b)]
                found.append(f"{host}: {kind} {name}: {said[0]} by Tierstack, {said[1]} by Ansible")
    return found


def _allowed(kind: str, name: str) -> bool:
    return any(kind == allowed and re.fullmatch(names, name) for allowed, names, _ in ALLOWED)
