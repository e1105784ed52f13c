"""What tests of the lab ask its hosts, and what they need of this machine."""

import os
import shutil
import subprocess

from tierstack.lab import Lab


def why_no_hosts() -> str | None:
    """Why this machine cannot run lab hosts, or None."""
    if os.geteuid() != 0:
        return "the lab needs root"
    if not (shutil.which("lxc-start") or shutil.which("apt-get")):
        return "LXC is not installed, and there is no apt-get to install it"
    probe = subprocess.run(["unshare", "--mount", "--net", "true"], check=False)
    return "this machine forbids new namespaces" if probe.returncode != 0 else None


def knock(lab: Lab, host: str, address: str) -> str:
    """What a host sees of another's SSH port: "open", "silent" or how it was refused."""
    script = (
        "import socket\n"
        f"try: socket.create_connection(('{address}', 22), timeout=3); print('open')\n"
        "except TimeoutError: print('silent')\n"
        "except OSError as error: print(error.strerror)\n"
    )
    return lab.ssh(host, "python3 -", text_in=script).stdout.strip()
