"""Runs on a host, never imported on the controller: notes what its MEDIA_ROOT is, the home's or a copy.

Sent over standard input with one request. It deletes nothing: what nobody has proved to be a copy is
moved aside. MEDIA_ROOT is the site's: nothing in it is written, obeyed or followed; its own path is
root's, as the directory that it lies in is.

    {"role": "home" | "copy" | "leaving" | "none", "proved": false, "sites": {name: MEDIA_ROOT},
     "accounts": {name: account}, "stamp": "…"}
"""

import json  # noqa: F401 -- for the line that calls main
import os
import pwd
import stat
import subprocess
import sys
import tempfile

#: A file for each site: what its MEDIA_ROOT is, and which directory that was. Beside MEDIA_ROOT's file
#: system, so that no site reaches it; the directory's birth says whether its disk is mounted.
NOTES = "/var/lib/tierstack/uploads"

#: Where earlier versions noted it: in MEDIA_ROOT itself, and that it was the home.
OLD_MARKS = {"home": ".tierstack-home", "leaving": ".tierstack-leaving", "copy": ".tierstack-copy"}
OLD_NOTES = "/var/lib/tierstack/media-home"

UNDER = "/run/tierstack/under"


def main(request):
    for site, path in request["sites"].items():
        if request["role"] == "none":
            problem = leave(path, request["stamp"])
            if not problem:
                forget(site)
        else:
            problem = become(site, path, request)
        if problem:
            print(problem, file=sys.stderr)
            return 1
    return 0


def become(site, path, request):
    """Have MEDIA_ROOT there in its part; return what is in the way, or ""."""
    role = request["role"]
    if mounted(path):
        return (
            "%s is mounted from another host here; deploy without --limit, which ends that" % path
        )
    if role == "copy" and not request["proved"] and mark(site, path) != "copy":
        problem = set_aside(path, request["stamp"])
        if problem:
            return problem
    make(path, request["accounts"][site])
    put(site, path, role)
    return ""


def mounted(path):
    """Return whether the network is mounted there; the mount itself is asked nothing."""
    kinds = kinds_mounted(path)
    return bool(kinds) and kinds[-1].startswith(("fuse", "nfs"))


def kinds_mounted(path):
    with open("/proc/self/mountinfo") as file:
        lines = [line.split() for line in file]
    return [line[line.index("-") + 1] for line in lines if line[4] == path]


def identity(path):
    """
    Return which directory it is: another one has its path while its disk is not mounted.

    By its birth, to the nanosecond: numbers of inodes change with each boot on an overlay. By that
    where the file system knows no birth. Source: statx(2); overlayfs.rst, "Inode properties".
    """
    command = ["stat", "-L", "-c", "%.9W %i", path]
    said = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ).stdout
    birth, _, inode = said.strip().partition(" ")
    return birth if birth.strip("0.") else inode


def mark(site, path):
    """Return what a site's MEDIA_ROOT is noted as, or "": also where it is not the directory that was."""
    try:
        with open(os.path.join(NOTES, site)) as file:
            role, was = file.read().split()
    except (OSError, ValueError):
        return old_mark(path)
    return role if was == identity(path) else ""


def old_mark(path):
    """Return what an earlier version has marked a directory as, or ""."""
    return next((role for role, name in OLD_MARKS.items() if is_old_mark(path, name)), "")


def is_old_mark(path, name):
    """Return whether a name in there is a file that only root can have made: no link, no second name."""
    try:
        found = os.lstat(os.path.join(path, name))
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and found.st_nlink == 1


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
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fchown(directory, owner.pw_uid, owner.pw_gid)
        os.fchmod(directory, 0o2755)
    finally:
        os.close(directory)


def put(site, path, role):
    """Note the part, as a whole; only then what earlier versions had left goes."""
    os.makedirs(NOTES, mode=0o755, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=NOTES, prefix=".new-")
    with os.fdopen(descriptor, "w") as file:
        file.write("%s %s\n" % (role, identity(path)))
        # Those that send and take copies are not root.
        os.fchmod(file.fileno(), 0o644)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, os.path.join(NOTES, site))
    os.sync()
    for name in OLD_MARKS.values():
        if is_old_mark(path, name):
            os.unlink(os.path.join(path, name))
    remove(old_note(site))


def forget(site):
    remove(os.path.join(NOTES, site))
    remove(old_note(site))


def old_note(site):
    return "%s-%s" % (OLD_NOTES, site)


def remove(path):
    if os.path.exists(path):
        os.unlink(path)


def leave(path, stamp):
    """
    Move what lies on this host's disk under a mount aside, where it does no harm.

    The share covers the files: they are reached beside it. One by one, as nobody can rename what a
    mount covers, and by descriptors, as who had the directory open before may still be at work there.
    A disk of its own stays as it is.
    """
    kinds = kinds_mounted(path)
    if kinds and not mounted(path):
        print(path)
        return ""
    parent, name = os.path.split(path)
    aside = "%s.aside-%s" % (name, stamp)
    os.makedirs(UNDER, exist_ok=True)
    subprocess.run(["mount", "--bind", parent, UNDER], check=True)
    try:
        if move_names(UNDER, name, aside):
            print(os.path.join(parent, aside))
    finally:
        subprocess.run(["umount", UNDER], check=True)
    return ""


def move_names(parent, name, aside):
    """Move all that lies in a directory to a new one beside it; return whether there was something."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
    try:
        source = os.open(os.path.join(parent, name), flags)
    except FileNotFoundError:
        return False
    try:
        names = os.listdir(source)
        if not names:
            return False
        os.mkdir(os.path.join(parent, aside), 0o755)
        target = os.open(os.path.join(parent, aside), flags)
        try:
            for each in names:
                os.rename(each, each, src_dir_fd=source, dst_dir_fd=target)
        finally:
            os.close(target)
        return True
    finally:
        os.close(source)
