"""Runs on a host, never imported on the controller: says what state it is in, as one JSON object.

Sent over standard input to `python3 -`; it only reads.
"""

import grp
import hashlib
import json
import os
import pwd
import stat
import subprocess
from pathlib import Path

ROOTS = ("/etc", "/usr/local", "/srv")

#: Every value in one line, sorted: what is configured, who may log in, what there is.
POSTGRES = r"""
SELECT 'setting ' || name || ' ' || setting FROM pg_settings WHERE source = 'configuration file';
SELECT 'role ' || rolname || ' ' || concat_ws(' ', rolcanlogin, rolsuper, rolreplication,
  rolcreatedb, rolcreaterole, md5(rolpassword)) FROM pg_authid WHERE rolname !~ '^pg_';
SELECT 'database ' || datname || ' ' || concat_ws(' ', pg_get_userbyid(datdba),
  pg_encoding_to_char(encoding), datcollate, datacl) FROM pg_database;
SELECT 'slot ' || slot_name FROM pg_replication_slots;
SELECT 'checksums ' || current_setting('data_checksums');
SELECT 'standby ' || pg_is_in_recovery();
"""


def main() -> None:
    """Print the state."""
    state = {
        "package": packages(),
        "file": files(),
        "enabled unit": units("list-unit-files", "--state=enabled,enabled-runtime"),
        "running unit": units("list-units", "--state=running", "--type=service"),
        "account": {entry.pw_name: " ".join(map(str, entry[2:])) for entry in pwd.getpwall()},
        "group": {entry.gr_name: " ".join(map(str, entry[2:])) for entry in grp.getgrall()},
        "firewall rule": lines(run("nft", "list", "table", "inet", "tierstack")),
        "mount": lines(run("findmnt", "-rno", "SOURCE,TARGET,FSTYPE", "-t", "fuse.sshfs")),
        "PostgreSQL": postgres(),
    }
    print(json.dumps(state))


def run(*command: str) -> str:
    """Return what a program prints; nothing where it is missing or fails."""
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    except OSError:
        return ""
    return done.stdout


def lines(text: str) -> dict[str, str]:
    """Return lines as keys, for what has no name of its own."""
    return dict.fromkeys((line.strip() for line in text.splitlines()), "")


def packages() -> dict[str, str]:
    """Return each installed package's version."""
    said = run("dpkg-query", "-W", "-f", "${Package}:${Architecture}\t${Version} ${Status}\n")
    return dict(line.split("\t") for line in said.splitlines())


def units(*question: str) -> dict[str, str]:
    """Return units by name."""
    said = run("systemctl", *question, "--plain", "--no-legend", "--no-pager")
    return {line.split()[0]: "" for line in said.splitlines()}


def postgres() -> dict[str, str]:
    """Return what PostgreSQL says of itself, where it runs."""
    said = run("runuser", "-u", "postgres", "--", "psql", "-XqAtc", POSTGRES)
    return lines(said)


def files() -> dict[str, str]:
    """Return kind, mode, owner and content of what lies under the roots, not of other file systems."""
    found = {}
    for root in ROOTS:
        device = Path(root).lstat().st_dev
        for folder, folders, names in os.walk(root):
            # Compiled Python holds the time of its source.
            folders[:] = [name for name in folders if name != "__pycache__"]
            for name in [*folders, *names]:
                path = Path(folder, name)
                found[str(path)] = look(path)
            # A mounted MEDIA_ROOT is another host's.
            folders[:] = [name for name in folders if Path(folder, name).lstat().st_dev == device]
    return found


def look(path: Path) -> str:
    """Return one path's state in words."""
    info = path.lstat()
    if stat.S_ISLNK(info.st_mode):
        return f"link to {path.readlink()}"
    rights = f"{stat.S_IMODE(info.st_mode):o} {info.st_uid}:{info.st_gid}"
    if not stat.S_ISREG(info.st_mode):
        return f"directory {rights}"
    return f"file {rights} {hashlib.sha256(path.read_bytes()).hexdigest()}"


if __name__ == "__main__":
    main()
