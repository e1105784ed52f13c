"""SSH host keys: a host that is not known is not talked to, and becomes known by the user's word.

Known is what the user's own SSH knows, or, once it is there, the file `known_hosts` beside the
inventory, which a team can share in git.
"""

from __future__ import annotations

import base64
import hashlib
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tierstack.model.shell import quoted

#: Longest that a host may take to show its key, in seconds.
_CONNECT_TIMEOUT_S = 10


#: What ssh says of a connection that another program was to make, and did not.
_NO_WAY = "UNKNOWN port 65535"


@dataclass(frozen=True)
class SeenKey:
    """
    The key that a host shows now.

    Args:
        host: its name in the inventory.
        target: what SSH reaches it by.
        entry: its line for known_hosts; empty when there is none to add.
        known: who knows this key already, in words; empty for nobody.
        wrong: why the key cannot be taken, in words; empty when it can.
    """

    host: str
    target: str
    entry: str = ""
    known: str = ""
    wrong: str = ""

    @property
    def fingerprint(self) -> str:
        """The key's fingerprint as ssh(1) shows it; empty without a key."""
        if not self.entry:
            return ""
        _, kind, key = self.entry.split()[:3]
        digest = base64.b64encode(hashlib.sha256(base64.b64decode(key)).digest()).decode()
        return f"SHA256:{digest.rstrip('=')} ({kind})"


def known_hosts_of(inventory: Path) -> Path:
    """Return the file of host keys that lies beside an inventory, whether it is there or not."""
    return inventory.parent / "known_hosts"


def ssh_defaults(inventory: Path) -> dict[str, str]:
    """Return pyinfra's SSH settings for hosts that say nothing of host keys themselves."""
    file = known_hosts_of(inventory)
    return {
        # pyinfra's default takes whatever key an unknown host shows.
        "ssh_strict_host_key_checking": "yes",
        **({"ssh_known_hosts_file": str(file)} if file.exists() else {}),
    }


def advice(error: object, inventory: Path) -> str:
    """
    Return what to do about a connection that failed over a host key; empty when it was not that.

    Args:
        error: what the SSH connector raised.
        inventory: the inventory's file.
    """
    if "No host key for" in str(error):
        return f"its SSH host key is not known; type: tierstack trust {quoted(inventory)}"
    if "does not match" in str(error) and "ost key" in str(error):
        return f"it shows another SSH host key than the one that is known: {_another(_in_use(inventory), inventory)}"
    return ""


def _another(file: Path, inventory: Path) -> str:
    """Return what to do about a host that shows another key than the one in a file."""
    return (
        f"if it was installed anew, delete its line from {file} and type: tierstack trust"
        f" {quoted(inventory)}; if not, somebody may sit between you and it"
    )


def see(inventory: Path, hosts: dict[str, dict[str, Any]]) -> list[SeenKey]:
    """
    Ask hosts for their keys, all at once, without logging in.

    ssh(1) itself asks, so that the user's configuration (names, ports, jump hosts) counts.

    Args:
        inventory: the inventory's file.
        hosts: pyinfra's data of each host by name: `ssh_hostname`, `ssh_port`, `ssh_config_file`.
    """
    with ThreadPoolExecutor(max(1, len(hosts))) as pool:
        return list(pool.map(lambda item: _see(inventory, *item), hosts.items()))


def remember(inventory: Path, seen: list[SeenKey]) -> Path:
    """Add the keys to the file beside the inventory, and return it."""
    file = known_hosts_of(inventory)
    before = file.read_text(encoding="utf-8") if file.exists() else ""
    if before and not before.endswith("\n"):
        before += "\n"
    new = file.with_name(".known_hosts.new")
    new.write_text(before + "".join(f"{key.entry}\n" for key in seen if key.entry), "utf-8")
    new.replace(file)
    return file


def _see(inventory: Path, name: str, data: dict[str, Any]) -> SeenKey:
    target = str(data.get("ssh_hostname") or name)
    beside = known_hosts_of(inventory)
    own = Path(data.get("ssh_known_hosts_file") or beside).expanduser()
    if own != beside:
        return SeenKey(name, target, known=f"by {own}, as the inventory says")
    before = beside.read_text(encoding="utf-8") if beside.exists() else ""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "known_hosts"
        file.write_text(before, encoding="utf-8")
        command = ["ssh"]
        if config := data.get("ssh_config_file"):
            command += ["-F", str(Path(config).expanduser())]
        for option in (
            "BatchMode=yes",
            f"ConnectTimeout={_CONNECT_TIMEOUT_S}",
            "StrictHostKeyChecking=accept-new",
            f'UserKnownHostsFile="{file}"',
            "GlobalKnownHostsFile=/dev/null",
            "HashKnownHosts=no",
            "CheckHostIP=no",
            "ControlPath=none",
            # The key is shown before anybody logs in, and nobody is to.
            "PreferredAuthentications=none",
        ):
            command += ["-o", option]
        if port := data.get("ssh_port"):
            command += ["-p", str(port)]
        done = subprocess.run(
            [*command, "--", target, "true"], capture_output=True, text=True, check=False
        )
        entries = file.read_text(encoding="utf-8")[len(before) :].splitlines()
    if "IDENTIFICATION HAS CHANGED" in done.stderr:
        return SeenKey(name, target, wrong=_another_than(beside, inventory))
    if entries:
        return _judged(SeenKey(name, target, entry=entries[-1]), inventory)
    if _NO_WAY in done.stderr:
        return SeenKey(name, target, wrong=_jump_failed(done.stderr))
    # ssh refuses whom it cannot log in, after the key: that is a good end here.
    if "Permission denied" in done.stderr:
        return SeenKey(name, target, known=f"by {beside}")
    words = done.stderr.strip().splitlines() or [f"ssh ended with status {done.returncode}"]
    return SeenKey(name, target, wrong=f"shows no key: {words[-1].strip()}")


def _another_than(file: Path, inventory: Path) -> str:
    return f"shows another key than {file} has: {_another(file, inventory)}"


def _jump_failed(said: str) -> str:
    """Return what came of the way through a jump host, whose own words stand before ssh's."""
    own = [line.strip() for line in said.splitlines() if line.strip()]
    own = [line for line in own if _NO_WAY not in line and "kex_exchange" not in line]
    return (
        "is not reached by way of its jump host (ProxyJump or ProxyCommand in your SSH configuration)"
        f"{f': {own[-1]}' if own else ''}; log in to the jump host by ssh first"
    )


def _judged(seen: SeenKey, inventory: Path) -> SeenKey:
    """Return the key with what the user's own SSH knows of it."""
    name, kind, key = seen.entry.split()[:3]
    own = Path("~/.ssh/known_hosts").expanduser()
    if not own.exists():
        return seen
    found = subprocess.run(
        ["ssh-keygen", "-F", name, "-f", str(own)], capture_output=True, text=True, check=False
    )
    lines = [line.split() for line in found.stdout.splitlines() if not line.startswith("#")]
    keys = {fields[1]: fields[2] for fields in lines if len(fields) > 2}
    if keys.get(kind) == key:
        return SeenKey(seen.host, seen.target, seen.entry, known="by your own SSH")
    if kind in keys:
        return SeenKey(seen.host, seen.target, wrong=_another_than(own, inventory))
    return seen


def _in_use(inventory: Path) -> Path:
    beside = known_hosts_of(inventory)
    return beside if beside.exists() else Path("~/.ssh/known_hosts")
