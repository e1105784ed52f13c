"""Runs on a host, never imported on the controller: brings installed Debian packages up to date.

Sent over standard input with one request. `look` prints one JSON object and changes nothing but,
with `refresh`, the package lists; `update` installs what is newer and restarts, each by its own
command, the services that run something older than what is installed.
"""

import contextlib
import json
import os
import re
import subprocess
import sys  # noqa: F401 -- for the line that calls main

POLICY = "/usr/sbin/policy-rc.d"
APT = (
    "apt-get", "-y", "-q", "-o", "DPkg::Lock::Timeout=120",
    "-o", "Dpkg::Options::=--force-confdef", "-o", "Dpkg::Options::=--force-confold",
)  # fmt: skip

# dpkg asks it before it starts or restarts a service (invoke-rc.d(8)): ours are not to be
# restarted by their packages, but in their turn and in their way; all others are.
KEEP_RUNNING = """#!/bin/sh
# tierstack: while packages are updated
case "$1" in {names}) exit 101;; esac
"""

# A deploy that could not finish with Apache left the node out of rotation.
UNFINISHED = "/run/tierstack/deploying"


def main(request):
    os.environ.update(DEBIAN_FRONTEND="noninteractive", LC_ALL="C.UTF-8")
    if request["verb"] == "update":
        return update(request)
    problem = refresh() if request["refresh"] else ""
    found = {
        "problem": problem,
        "packages": newer(),
        "units": outdated(request["units"]),
        "reboot": os.path.exists("/run/reboot-required"),
    }
    print(json.dumps(found))
    return 0


def refresh():
    """Fetch the package lists; return why some cannot be fetched, or ""."""
    done = subprocess.run(
        [*APT, "--error-on=any", "update"],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    return " ".join(done.stderr.split()) if done.returncode else ""


def newer():
    """Return [package, installed version, newer version] of what an upgrade would install."""
    said = subprocess.run(
        [*APT, "-s", "--with-new-pkgs", "upgrade"], stdout=subprocess.PIPE, text=True, check=True
    ).stdout
    return re.findall(r"^Inst (\S+) \[(\S+)\] \((\S+)", said, re.MULTILINE)


def outdated(units):
    """Return the units that still run a program or a library whose file has been replaced."""
    found = [unit for unit in units if any(runs_replaced_file(pid) for pid in processes(unit))]
    if "apache2.service" in units and os.path.exists(UNFINISHED):
        found.append("apache2.service")
    return sorted(set(found))


def processes(unit):
    said = subprocess.run(
        ["systemctl", "show", "-p", "ControlGroup", "--value", unit],
        stdout=subprocess.PIPE, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    found = []
    for top in ("/sys/fs/cgroup", "/sys/fs/cgroup/systemd"):
        if not said:
            continue
        for folder, _, files in os.walk(top + said):
            if "cgroup.procs" in files:
                with contextlib.suppress(OSError), open(folder + "/cgroup.procs") as file:
                    found += file.read().split()
    return found


def runs_replaced_file(pid):
    with contextlib.suppress(OSError), open("/proc/%s/maps" % pid) as maps:
        return any(
            re.search(r" (/usr/|/lib)\S* \(deleted\)$", line) and " r-xp " in line for line in maps
        )
    return False


def update(request):
    if newer():
        with services_left_alone(request["units"]):
            done = subprocess.run(
                [*APT, "--with-new-pkgs", "upgrade"], stdout=subprocess.DEVNULL, check=False
            )
        if done.returncode:
            return "tierstack: apt-get upgrade failed, as it says above; see /var/log/apt/term.log"
    for unit in outdated(request["units"]):
        command = request["units"][unit]
        done = subprocess.run(["sh", "-c", command], stdout=subprocess.DEVNULL, check=False)
        if done.returncode:
            return "tierstack: %s failed, as it says above; see: journalctl -u %s" % (command, unit)
    return 0


@contextlib.contextmanager
def services_left_alone(units):
    """Keep packages from restarting these units, unless the administrator has a policy already."""
    ours = not os.path.exists(POLICY)
    if not ours:
        with open(POLICY) as file:
            ours = "tierstack" in file.read()
    if ours:
        names = "|".join(re.split(r"[.@]", unit)[0] + "*" for unit in units) or "-"
        with open(POLICY, "w") as file:
            file.write(KEEP_RUNNING.format(names=names))
        os.chmod(POLICY, 0o755)
    try:
        yield
    finally:
        if ours:
            os.unlink(POLICY)
