"""Runs on a host, never imported on the controller: marks MEDIA_ROOT as the home's or as a copy.

Sent over standard input with one request. It deletes nothing: what nobody has proved to be a copy is
moved aside.

    {"role": "home" | "copy" | "leaving", "proved": false, "sites": {name: MEDIA_ROOT},
     "accounts": {name: account}, "stamp": "…"}
"""

import json  # noqa: F401 -- for the line that calls main
import os
import pwd
import sys

MARKS = {"home": ".tierstack-home", "copy": ".tierstack-copy", "leaving": ".tierstack-leaving"}

#: Beside the data's own mark, on the system's disk: says that there must be one.
NOTES = "/var/lib/tierstack/media-home"


def main(request):
    for site, path in request["sites"].items():
        if mounted(path):
            print("%s is mounted from another host" % path, file=sys.stderr)
            return 1
        if request["role"] == "copy" and mark(path) != "copy" and not request["proved"]:
            problem = set_aside(path, request["stamp"])
            if problem:
                print(problem, file=sys.stderr)
                return 1
        make(path, request["accounts"][site])
        put(path, request["role"])
        note(site, request["role"] == "home")
    return 0


def mounted(path):
    """Return whether the network is mounted there; the mount itself is asked nothing."""
    with open("/proc/self/mountinfo") as file:
        lines = [line.split() for line in file]
    kinds = [line[line.index("-") + 1] for line in lines if line[4] == path]
    return bool(kinds) and kinds[-1].startswith(("fuse", "nfs"))


def mark(path):
    """Return what a directory is marked as, or ""."""
    return next(
        (kind for kind, name in MARKS.items() if os.path.exists(os.path.join(path, name))), ""
    )


def set_aside(path, stamp):
    """Move what lies there aside, unless it is empty; return what is in the way, or ""."""
    try:
        found = os.listdir(path)
    except FileNotFoundError:
        return ""
    if not set(found) - {"lost+found"}:
        return ""
    aside = "%s.aside-%s" % (path, stamp)
    if os.path.ismount(path):
        return (
            "%s is a disk of its own and holds files that are no copy; move them away from there, e.g."
            " to %s" % (path, aside)
        )
    os.rename(path, aside)
    print("what lay in %s was no copy, and lies in %s now" % (path, aside))
    return ""


def make(path, account):
    owner = pwd.getpwnam(account)
    os.makedirs(path, exist_ok=True)
    os.chown(path, owner.pw_uid, owner.pw_gid)
    os.chmod(path, 0o2755)


def put(path, role):
    """Leave exactly one mark; the new one is there before an old one goes."""
    with open(os.path.join(path, MARKS[role]), "w") as file:
        file.write("Tierstack knows by this file what lies here; do not delete it.\n")
        file.flush()
        os.fsync(file.fileno())
    for kind, name in MARKS.items():
        if kind != role and os.path.exists(os.path.join(path, name)):
            os.unlink(os.path.join(path, name))
    os.sync()


def note(site, home):
    file = "%s-%s" % (NOTES, site)
    if home:
        os.makedirs(os.path.dirname(file), mode=0o755, exist_ok=True)
        with open(file, "w"):
            pass
    elif os.path.exists(file):
        os.unlink(file)
