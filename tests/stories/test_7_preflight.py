"""Wrong hosts are refused before the first change, all that is wrong with all of them in one list."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.operator import ROOT, Operator

#: Name and number of the hosts: a cluster of its own beside the one of the other stories.
HOSTS = {
    "balancer": {"front": 60},
    "web": {"old": 61, "early": 62, "lost": 63, "full": 64},
    "db": {"small": 65, "closed": 66},
    "cache": {
        "bare": 67,
        "moved": 68,
        "twin1": 69,
        "twin2": 70,
        "plain": 71,
        "large": 72,
        "keyed": 74,
        "loud": 75,
    },
    "media": {"offline": 73},
}

#: What is done to each host.
FAULTS = {
    "front": "systemd-run -q --unit=squatter python3 -m http.server 443",
    "old": "sed -i 's/bookworm/bullseye/; s/GNU.Linux 12/GNU\\/Linux 11/' /usr/lib/os-release",
    "early": "{{ apt-get -qq install -y faketime || {{ apt-get -qq update && apt-get -qq install -y faketime; }}; }} >/dev/null"
    " && printf '#!/bin/sh\\nexec faketime -f +3600 /usr/bin/python3 \"$@\"\\n' > /usr/local/bin/python3"
    " && chmod 755 /usr/local/bin/python3",
    "lost": "ip route add blackhole {small} && useradd -m -G sudo example",
    "full": "mount -t tmpfs -o size=2g,nr_inodes=100,noexec none /srv",
    "small": "mkdir -p /var/lib/postgresql && mount -t tmpfs -o size=64m none /var/lib/postgresql",
    "large": "systemd-run -q --unit=exporter python3 -m http.server 9100",
    "closed": "useradd -m ops && cp -r .ssh /home/ops && chown -R ops /home/ops",
    "bare": "mv /usr/bin/python3 /usr/bin/python3.away",
    "twin1": "ip address add {twin2}/24 dev eth0",
    "plain": "useradd -m ops && cp -r .ssh /home/ops && chown -R ops /home/ops",
    "keyed": "useradd -m ops && cp -r .ssh /home/ops && chown -R ops /home/ops && echo ops:secret | chpasswd"
    " && echo 'ops ALL=(ALL) ALL' > /etc/sudoers.d/ops && mount -t tmpfs -o mode=1777,noexec none /tmp",
    "loud": "useradd -m -s /bin/bash ops && cp -r .ssh /home/ops && echo 'echo Welcome' > /home/ops/.bashrc"
    " && chown -R ops /home/ops && echo 'ops ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/ops",
    "offline": "mkdir -p /srv/example /data/uploads /data/photos && ln -s /data/uploads"
    " /srv/example/media && ln -s /data/photos /data/gone /data/uploads && rm -r /etc/apt/sources.list* /var/lib/apt/lists/* && echo"
    " 'deb http://127.0.0.1:9/debian bookworm main' > /etc/apt/sources.list && echo"
    " 'Acquire::http::Proxy::127.0.0.1 \"DIRECT\";' > /etc/apt/apt.conf.d/zz-direct",
}

#: What is wrong with a host's line; `lab up` has made the hosts before.
LINES = {
    "closed": 'ssh_user="ops", _sudo=True',
    "moved": 'address="{subnet}.99"',
    "twin2": 'ssh_hostname="{twin1}"',
    "plain": 'ssh_user="ops"',
    "large": "memory_mb=10000000",
    "loud": 'ssh_user="ops", _sudo=True',
    "keyed": 'ssh_user="ops", _sudo=True, _sudo_password="secret"',
}

#: A package that Debian 12 does not have, and a share that containers can mount.
SETTINGS = """
sites = [
    dict(
        name="example",
        source="example",
        project="src",
        settings="mysite.settings",
        domains=["example.test"],
        packages=["gdal-binn"],
    ),
]
media = dict(share="sshfs")
"""

EXPECTED = """\
wrong.py: 24 errors, no host was changed
  balancer.https_port: 443 is taken on front by python3 (squatter.service); type there: systemctl disable --now squatter.service, or write another port
  bare: has no python3; type on it: apt-get install python3
  cache[1].address: {subnet}.99 is not an address of moved, which has {moved}; write the one by which the other hosts reach it
  cache[3]: twin2 is the same machine as twin1, reached twice by SSH; correct ssh_hostname or ssh_port, or write one name for it in both tiers
  cache[5].memory_mb: large has {memory_mb} MiB, and 10000000 are planned with; write at most {memory_mb}, or leave it out
  closed: sudo does not work there (sudo: a password is required); let the SSH user use it without a password: write USER ALL=(ALL) NOPASSWD: ALL in a file of /etc/sudoers.d
  early: its clock is 60 min ahead of this machine's, and certificates and replication bear 60 s; type where it is wrong: apt-get install chrony && chronyc makestep
  full: /srv has 99 inodes free, and the deploy needs 20000 (releases); delete something there, or give it a larger disk
  full: /srv is mounted noexec, and sites' Python modules are loaded from there; take noexec out of its line in /etc/fstab, and type: mount -o remount,exec /srv
  keyed: sudo does not take the password of its line; correct it, or where /tmp is mounted noexec, which keeps sudo from asking for it, write "_temp_dir": "/var/tmp" beside it
  large: its firewall would shut tcp 9100 (python3, exporter.service); write base.incoming = ["tcp 9100"], each with "from ADDRESS" if not for everybody, or if nobody needs it, add --data shut=yes
  lost: does not reach small: {small} answers neither ping nor TCP on port 22 or 5432; look at routes and at firewalls between them, e.g. by: ip route get {small}
  lost: its account example is there already and not ours (number 1000, home /home/example, groups example, sudo), and the site would have its rights; choose another name for the site, or if nobody needs the account, type on it: userdel example
  loud: its shell prints "Welcome" before what a command says, and that garbles every answer; in the file that does so, such as ~/.bashrc, write above it: [ -t 1 ] || return
  offline: /srv/example/media is a link to /data/uploads, and who serves uploads and static files follows no links; mount in its place what it leads to, type on it: rm /srv/example/media && mkdir /srv/example/media && mount --bind /data/uploads /srv/example/media, and write in its /etc/fstab: /data/uploads /srv/example/media none bind 0 0
  offline: /srv/example/media/gone is a link to nothing, and who serves uploads and static files follows no links; type on it: rm /srv/example/media/gone
  offline: /srv/example/media/photos is a link to /data/photos, and who serves uploads and static files follows no links; have in its place what it leads to, type on it: rm /srv/example/media/photos && mv /data/photos /srv/example/media/photos
  offline: its package source http://127.0.0.1:9/debian/dists/bookworm/InRelease cannot be read (Could not connect to 127.0.0.1:9 (127.0.0.1). - connect (111: Connection refused)); correct it in /etc/apt, or let the host out to it
  old: runs Debian GNU/Linux 11 (bullseye), which is not supported; install Debian 12 (bookworm) on it
  plain: the SSH user is not root; log in as root, or write "_sudo": True in its line
  sites[0].packages: apt on early knows no package gdal-binn; write the name that Debian 12 has for it, or if its source is new there, type: apt-get update
  sites[0].packages: apt on full knows no package gdal-binn; write the name that Debian 12 has for it, or if its source is new there, type: apt-get update
  sites[0].packages: apt on lost knows no package gdal-binn; write the name that Debian 12 has for it, or if its source is new there, type: apt-get update
  small: /var/lib/postgresql has 64 MiB free, and the deploy needs 5320 (PostgreSQL with 4096 for db.slot_keep_mb); delete something there, or give it a larger disk
"""


class Wrong:
    """An inventory whose hosts are all wrong in their own way."""

    def __init__(self, operator: Operator) -> None:
        self.operator = operator
        self.inventory = operator.home / "wrong.py"
        self.subnet = operator.door.address.rpartition(".")[0]
        self.address = {
            name: f"{self.subnet}.{number}"
            for hosts in HOSTS.values()
            for name, number in hosts.items()
        }

    def write(self, lines: dict[str, str]) -> None:
        """Write the inventory, with these changes to its lines."""
        text = "from tierstack.inventory import cluster\nfrom tierstack.lab import lab_host\n\n\n"
        text += "def line(name, number, **data):\n    return name, {**lab_host(name, number)[1], **data}\n\n\n"
        for tier, hosts in HOSTS.items():
            text += f"{tier} = [\n"
            for name, number in hosts.items():
                text += f'    line("{name}", {number}, {self.filled(lines.get(name, ""))}),\n'
            text += "]\n"
        self.inventory.write_text(text + "cluster(__file__)\n", encoding="utf-8")

    def filled(self, text: str) -> str:
        """Return a text with addresses filled in."""
        memory = next(
            line for line in Path("/proc/meminfo").read_text().splitlines() if "MemTotal" in line
        )
        return text.format(
            subnet=self.subnet, memory_mb=int(memory.split()[1]) // 1024, **self.address
        )

    def on(self, name: str, command: str) -> str:
        """Run a command on a host, as root."""
        done = self.operator.on_address(self.address[name], command)
        assert done.status == 0, f"{name}: {command}\n{done.said}"
        return done.out

    def deploy(self) -> subprocess.CompletedProcess[str]:
        """Deploy, with nobody at a terminal."""
        pyinfra = Path(sys.executable).with_name("pyinfra")
        return subprocess.run(
            [str(pyinfra), str(self.inventory), "deploy.py", "-y"],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # pyinfra would ask the terminal of the tests for a password.
        )


@pytest.fixture
def wrong(operator: Operator) -> Wrong:
    """The wrong hosts; they go with the lab."""
    cluster = Wrong(operator)
    (operator.home / "group_data" / "wrong.py").write_text(SETTINGS, encoding="utf-8")
    cluster.write({})
    operator.lab("up", str(cluster.inventory))
    for name, fault in FAULTS.items():
        cluster.on(name, cluster.filled(fault))
    cluster.write(LINES)
    return cluster


def test_wrong_hosts_are_refused_in_one_list(wrong: Wrong) -> None:
    """Every fault of every host is named, with what to do; no file of any host has changed."""
    for name in wrong.address:
        wrong.on(name, "touch /root/before")
    done = wrong.deploy()
    assert done.returncode == 1
    said = done.stderr.partition("wrong.py: ")
    assert wrong.filled(EXPECTED).strip() == (said[1] + said[2]).strip()
    for name in wrong.address:
        places = "/etc /home /opt /root /srv /tmp /usr /var/cache /var/lib/apt /var/lib/dpkg"
        assert wrong.on(name, f"find {places} -xdev -type f -newer /root/before") == ""
