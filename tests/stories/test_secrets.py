"""No secret is seen where it does not belong, while everything is deployed as loudly as can be."""

from __future__ import annotations

import json
import tomllib
from typing import Any

from tests.operator import Operator
from tests.stories.conftest import SETTINGS

#: Notes every command line that runs on a host, 20 times a second, until it is stopped.
_WATCH = """
import glob, time
seen = set()
with open("/root/command-lines", "w", errors="replace") as file:
    while True:
        for path in glob.glob("/proc/[0-9]*/cmdline"):
            try:
                line = open(path, errors="replace").read()
            except OSError:
                continue
            if line not in seen:
                seen.add(line)
                file.write(line + "\\n")
                file.flush()
        time.sleep(0.05)
"""

#: Prints where one of the secrets is found: what was watched, the journal, files that anyone may read.
_SEARCH = """
import json, os, stat, subprocess, sys
secrets = [secret.encode() for secret in json.loads(sys.stdin.readline())]
def look(name, text):
    for secret in secrets:
        if secret in text:
            print(name)
            return
look("command lines", open("/root/command-lines", "rb").read())
look("journal", subprocess.run(["journalctl", "-o", "cat", "--no-pager"], stdout=subprocess.PIPE).stdout)
for top in ("/etc", "/var", "/srv", "/tmp", "/run", "/home", "/usr/local", "/opt"):
    for folder, _, files in os.walk(top):
        for name in files:
            path = os.path.join(folder, name)
            try:
                info = os.lstat(path)
                if stat.S_ISREG(info.st_mode) and info.st_mode & stat.S_IROTH and info.st_size < 2**25:
                    look(path, open(path, "rb").read())
            except OSError:
                pass
"""


def test_secrets_are_seen_nowhere(operator: Operator) -> None:
    """Not in output, command lines, journals or files for everybody, at the loudest deploy there is."""
    hosts = [host.name for host in operator.cluster().hosts]
    operator.edit("SESSION_ENGINE", "LOUD = True\nSESSION_ENGINE", SETTINGS)
    file = operator.inventory.with_suffix(".secrets.toml")
    text = file.read_text(encoding="utf-8")
    lines = [
        f'{line.partition(" = ")[0]} = "a-canary-in-a-coal-mine-{number}"'
        if "_password = " in line
        else line
        for number, line in enumerate(text.splitlines())
    ]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    secrets = canaries(tomllib.loads(file.read_text(encoding="utf-8")))
    assert sum("canary" in secret for secret in secrets) == 3
    for host in hosts:
        operator.ask(host, f"systemd-run -q --unit=watch python3 -c '{_WATCH}'")
    loud = operator.run_file("deploy.py", "-vvv", "--debug", "--diff")
    said = [loud.said, operator.pyinfra("debug-inventory").said]
    said.append(operator.tierstack("plan", "--diff", str(operator.inventory)).said)
    assert loud.status == 0, loud.said[-3000:]
    assert loud.changes
    found = {host: search(operator, host, secrets) for host in hosts}
    assert found == dict.fromkeys(hosts, "")
    assert [secret[:8] for secret in secrets if any(secret in text for text in said)] == []


def canaries(values: dict[str, Any]) -> list[str]:
    """Return what to look for: each value, of one with several lines a line in the middle."""
    found = []
    for name, value in values.items():
        if isinstance(value, dict):
            found += canaries(value)
        elif "certificate" not in name:
            lines = value.splitlines()
            found.append(lines[len(lines) // 2])
    return found


def search(operator: Operator, host: str, secrets: list[str]) -> str:
    """Return where a host shows secrets; they are sent over standard input, or would be found."""
    operator.ask(host, "systemctl stop watch")
    seen = operator.ask(host, "wc -l < /root/command-lines")
    assert int(seen) > 20
    return operator.ask(host, f"python3 -c '{_SEARCH}'", given=json.dumps(secrets) + "\n")
