"""The same cluster by Ansible: its virtual environment, what the playbook is given, and its runs.

The playbook is `ansible/`; files reach it as Tierstack has rendered them, read from hosts that a
deploy of ours has made.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from roles import base
from roles.db.configuration import REPLICATION_ROLE
from roles.web.release import config_path, release
from tierstack.inventory import CHECKOUT
from tierstack.lab import Lab, LabError
from tierstack.model import Cluster, Host
from tierstack.model.primary import slot_name
from tierstack.model.release import pack
from tierstack.secrets import load_secrets

_HERE = Path(__file__).resolve().parent
_VENV = CHECKOUT / "build" / "bench-venv"

#: Where files of ours lie, without those that packages bring beside them.
_RENDERED = (
    "etc/apache2 etc/haproxy etc/postgresql etc/postgresql-common/createcluster.d etc/sysctl.d"
    " etc/systemd etc/sysusers.d etc/tierstack etc/tmpfiles.d usr/local/bin usr/local/lib/tierstack"
)

_VERIFIERS = "SELECT json_object_agg(rolname, rolpassword) FROM pg_authid WHERE rolpassword <> ''"


@dataclass(frozen=True)
class Run:
    """One run of a tool: its seconds, how much it changed over all hosts, and what that was."""

    seconds: float
    changed: int
    what: list[str]


def install() -> None:
    """Make the virtual environment that `requirements.txt` asks for; one that is there stays."""
    wanted = (_HERE / "requirements.txt").read_text(encoding="utf-8")
    mark = _VENV / "requirements.txt"
    if mark.exists() and mark.read_text(encoding="utf-8") == wanted:
        return
    subprocess.run([sys.executable, "-m", "venv", "--clear", _VENV], check=True)
    pip = [str(_VENV / "bin/python"), "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
    subprocess.run([*pip, "-r", str(_HERE / "requirements.txt")], check=True)
    mark.write_text(wanted, encoding="utf-8")


def export(cluster: Cluster, lab: Lab, directory: Path) -> None:
    """
    Write what the playbook is given: an inventory, each host's files, the source of the site.

    Args:
        cluster: a cluster that has just been deployed by Tierstack.
        lab: the lab that its hosts are in.
        directory: where to; it will hold secrets, and should be for its owner alone.

    Raises:
        LabError: a host does not give its files.
    """
    for host in cluster.hosts:
        _fetch_files(host, lab, directory / "files" / host.name)
    (directory / "source.tar.gz").write_bytes(pack(cluster.sites[0].source).archive)
    primary = cluster.tier("db")[0]
    asked = f'runuser -u postgres -- psql -XqAtc "{_VERIFIERS}"'
    said = lab.ssh(primary.name, asked)
    if said.returncode != 0:
        raise LabError(f"{primary.name} does not tell its roles:\n{said.stderr}")
    inventory = directory / "hosts.json"
    inventory.touch(mode=0o600)
    given = _inventory(cluster, lab, directory, json.loads(said.stdout))
    inventory.write_text(json.dumps(given, indent=1), encoding="utf-8")


def _fetch_files(host: Host, lab: Lab, target: Path) -> None:
    target.mkdir(parents=True)
    # Not every tier has every directory: tar says so, and packs the others.
    command = f"tar -C / -cf - --ignore-failed-read $(cd / && ls -d {_RENDERED} 2>/dev/null)"
    archive = target.with_suffix(".tar")
    with archive.open("wb") as file:
        done = subprocess.run(
            [*lab.ssh_argv(host.name), command], stdout=file, stdin=subprocess.DEVNULL, check=False
        )
    if done.returncode != 0:
        raise LabError(f"{host.name} does not give its files")
    with tarfile.open(archive) as packed:
        # Links lead to where they lead on the host.
        files = [member for member in packed if member.isfile()]
        packed.extractall(target, members=files, filter="data")
    archive.unlink()


def _inventory(
    cluster: Cluster, lab: Lab, directory: Path, verifiers: Mapping[str, str]
) -> dict[str, Any]:
    """Return Ansible's inventory: groups, what holds for all hosts, and what differs."""
    site = cluster.sites[0]
    this = release(cluster, site)
    settings = cluster.settings
    primary, *standbys = cluster.tier("db")
    tiers = ("balancer", "web", "db", "cache", "media")
    groups = {tier: [host.name for host in cluster.tier(tier)] for tier in tiers} | {
        "primary": [primary.name],
        "standbys": [host.name for host in standbys],
        "exporter": [cluster.media_home.name],
    }
    variables = {
        "ansible_user": "root",
        "ansible_ssh_private_key_file": str(lab.settings.key),
        "ansible_ssh_common_args": f"-o UserKnownHostsFile={lab.settings.known_hosts}",
        "rendered": f"{directory}/files/{{{{ inventory_hostname }}}}",
        "site": {
            "name": site.name,
            "account": site.account,
            "domain": site.settings.domains[0],
            "home": site.home,
            "config": site.config,
            "media_root": site.media_root,
            "static_root": site.static_root,
        },
        "release": {
            "id": this.id,
            "path": this.path,
            "archive": f"{directory}/source.tar.gz",
            "requirements": site.settings.requirements,
        },
        "ports": {
            "web": settings.web.port,
            "cache": settings.cache.port,
            "media": settings.media.port,
            "share": settings.media.share_port,
        },
        "roles_of_database": [
            {"name": name, "verifier": verifier, "replication": name == REPLICATION_ROLE}
            for name, verifier in sorted(verifiers.items())
        ],
        "databases": [site.database],
        "slots": [slot_name(host.name) for host in standbys],
        "copied_from": (
            f"host={primary.address} port={settings.db.port} user={REPLICATION_ROLE}"
            " sslmode=verify-ca sslrootcert=/etc/tierstack/postgresql/ca.crt"
            " passfile=/etc/tierstack/postgresql/replication.pgpass"
        ),
    }
    return {
        "all": {
            "hosts": {host.name: _host_variables(cluster, host) for host in cluster.hosts},
            "vars": variables,
            "children": {
                group: {"hosts": {name: {} for name in names}} for group, names in groups.items()
            },
        }
    }


def _host_variables(cluster: Cluster, host: Host) -> dict[str, Any]:
    found: dict[str, Any] = {
        "ansible_host": host.address,
        "packages": list(base.needed_packages(cluster, host, container=True)),
        "slot": slot_name(host.name),
    }
    if "web" in host.tiers:
        secrets = load_secrets(cluster)
        found["config_path"] = config_path(cluster, host, cluster.sites[0], secrets)
    return found


def run(directory: Path, hosts: int) -> Run:
    """
    Run the playbook once, over connections of its own.

    Args:
        directory: as of `export`.
        hosts: how many hosts there are; so many are worked on at once.

    Raises:
        LabError: the playbook failed; the text ends with what it said.
    """
    with tempfile.TemporaryDirectory(prefix="bench-") as own:
        environment = os.environ | {
            "ANSIBLE_CONFIG": str(_HERE / "ansible/ansible.cfg"),
            "ANSIBLE_HOME": own,
            "ANSIBLE_LOCAL_TEMP": own,
            "ANSIBLE_SSH_CONTROL_PATH_DIR": f"{own}/connections",
            "ANSIBLE_FORKS": str(hosts),
            "ANSIBLE_NOCOLOR": "1",
            "LC_ALL": "C.UTF-8",
        }
        playbook = [str(_VENV / "bin/ansible-playbook"), "-i", str(directory / "hosts.json")]
        began = time.monotonic()
        done = subprocess.run(
            [*playbook, str(_HERE / "ansible/site.yml")],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        seconds = time.monotonic() - began
        # Connections outlive the run; the next one makes its own, as every run of ours does.
        for connection in Path(own, "connections").glob("*"):
            end = ["ssh", "-o", f"ControlPath={connection}", "-O", "exit", "host"]
            subprocess.run(end, capture_output=True, check=False)
    if done.returncode != 0:
        raise LabError(f"the playbook failed:\n{done.stdout[-4000:]}")
    return Run(seconds, changed_tasks(done.stdout), names_of_changed_tasks(done.stdout))


def changed_tasks(said: str) -> int:
    """Return how many tasks changed something, over all hosts, from a playbook's recap."""
    recap = said.rpartition("PLAY RECAP")[2]
    return sum(int(number) for number in re.findall(r" changed=(\d+) ", recap))


def names_of_changed_tasks(said: str) -> list[str]:
    """Return each task that changed something, once, from what a playbook has said."""
    found: dict[str, None] = {}
    name = ""
    for line in said.splitlines():
        if begun := re.match(r"(?:TASK|RUNNING HANDLER) \[(.*)\] \*+$", line):
            name = begun[1]
        elif line.startswith("changed: ["):
            found[name] = None
    return list(found)
