"""Runs on the host, never imported on the controller: looks at files and units, and changes them.

It is sent over standard input together with one JSON object, so that neither file contents nor
secrets stand in an argument list, and so that a whole role costs one SSH execution. It needs
nothing but Debian's python3.

    {"verb": "look",  "paths": [...], "units": {...}, "stamp": "name"}
    {"verb": "read",  "paths": [...]}
    {"verb": "apply", "entries": [...], "units": [...], "stamp": {...}, "check": "...", ...}
"""

import base64
import fcntl
import grp
import hashlib
import json
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile

STAMPS = "/var/lib/tierstack"
#: In a directory of root's alone: whoever can open a lock can hold it.
LOCK = "/run/tierstack/locks/work"


def main(request):
    # A terminal's hang-up or a controller that died must not stop a change half-way.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    if request["verb"] == "look":
        print(json.dumps(look(request)))
        return 0
    if request["verb"] == "read":
        print(json.dumps({"known": os.path.isdir(STAMPS), "contents": contents(request["paths"])}))
        return 0
    os.makedirs(os.path.dirname(LOCK), mode=0o700, exist_ok=True)
    # What a run that was cut off has left at work here ends first; the lock ends with it.
    with open(LOCK, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return apply(request)


def look(request):
    """Return what is there: each path's kind, owner, mode and hash, each unit's state, the stamp."""
    return {
        "paths": {path: look_at(path) for path in request["paths"]},
        "units": units_state(request["units"]),
        "stamp": read_stamp(request["stamp"]),
    }


def look_at(path):
    try:
        info = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return {"kind": "absent"}
    if stat.S_ISLNK(info.st_mode):
        return {"kind": "link", "target": os.readlink(path)}
    found = {
        "kind": "directory" if stat.S_ISDIR(info.st_mode) else "file",
        "mode": "%o" % stat.S_IMODE(info.st_mode),
        "owner": name_of(pwd.getpwuid, info.st_uid),
        "group": name_of(grp.getgrgid, info.st_gid),
    }
    if found["kind"] == "file":
        with open(path, "rb") as file:
            found["sha256"] = hashlib.sha256(file.read()).hexdigest()
    return found


def contents(paths):
    """Return the bytes of those paths that are files, in base64."""
    found = {}
    for path in paths:
        if look_at(path)["kind"] == "file":
            with open(path, "rb") as file:
                found[path] = base64.b64encode(file.read()).decode()
    return found


def name_of(lookup, number):
    try:
        return lookup(number)[0]
    except KeyError:
        return str(number)


def units_state(units):
    """Return for each unit whether it is enabled and running."""
    state = {}
    for unit, healthy in units.items():
        shown = subprocess.run(
            ["systemctl", "show", unit, "-p", "ActiveState,UnitFileState,LoadState"],
            stdout=subprocess.PIPE,
            text=True,
        ).stdout
        properties = dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)
        state[unit] = {
            # "activating" is also what a unit is that fails and is started again and again.
            "running": properties.get("ActiveState") in ("active", "reloading")
            and not run(healthy),
            "enabled": properties.get("UnitFileState")
            in ("enabled", "enabled-runtime", "static", "alias", "generated", "indirect"),
        }
    return state


def read_stamp(name):
    try:
        with open(os.path.join(STAMPS, name + ".stamp")) as file:
            return json.load(file)
    except (OSError, ValueError):
        return {}


def write_stamp(name, value):
    os.makedirs(STAMPS, mode=0o755, exist_ok=True)
    write_atomically(os.path.join(STAMPS, name + ".stamp"), json.dumps(value).encode(), 0o600, 0, 0)


def apply(request):
    """
    Put entries in place together, let the program's own checker judge, then act on the units.

    The stamp says what the running programs have loaded. It is spoiled before the first file
    changes and set after the last action, so that a run that was cut off in between acts again.
    """
    name, want = request["stamp"]["name"], request["stamp"]["want"]
    entries = request["entries"]
    try:
        error = check_staged(entries, request["check_staged"])
        if not error:
            write_stamp(name, request["stamp"]["during"])
    except OSError as problem:
        error = str(problem)
    if error:
        return fail(error, "nothing was changed")
    backup = {}
    try:
        for entry in entries:
            backup[entry["path"]] = take_backup(entry["path"])
            # All are sent where all are judged together. A unit's file that is only written anew is
            # another one to systemd.
            if differs(entry, backup):
                put(entry)
        error = run(request["check"]) or run(request["then"])
    except OSError as problem:
        error = str(problem)
    if error:
        try:
            restore(backup)
            write_stamp(name, request["stamp"]["was"])
        except OSError as problem:
            state = "what runs was told nothing, but not all files are the old ones: %s" % problem
            return fail(error, state)
        return fail(error, "the old configuration is back in place and still serves")
    # Also what a run that was cut off here has left.
    units = [action["unit"] for action in request["actions"] if action["unit"]]
    changed = any(is_unit_file(entry["path"]) and differs(entry, backup) for entry in entries)
    if changed or needs_reload(units):
        run("systemctl daemon-reload")
    for action in request["actions"]:
        error = run(action["command"])
        if error:
            # Before the undo writes into it too.
            error += "\n" + journal(action["unit"])
            if request.get("keep_new"):
                state = "the new configuration stays in place, and is tried again by itself"
                return fail(error, "%s; look: journalctl -u %s" % (state, action["unit"]))
            restore(backup)
            run("systemctl daemon-reload")
            undone = run(action["undo"], TIERSTACK_UNDO="yes")
            return fail(error, state_after(action, undone))
    write_stamp(name, want)
    return 0


def state_after(action, problem):
    """Return in what state the old configuration is, and what to do."""
    state = "the old configuration is back in place"
    if not action["unit"]:
        return state
    if action["undo"]:
        state += ", and does not run either" if problem else " and runs"
    return "%s; look: journalctl -u %s, mend it, and deploy again" % (state, action["unit"])


def is_unit_file(path):
    return path.startswith("/etc/systemd/system/")


def needs_reload(units):
    """Return whether systemd has another file of one of these units than lies there."""
    if not units:
        return False
    shown = subprocess.run(
        ["systemctl", "show", "-p", "NeedDaemonReload", *units], stdout=subprocess.PIPE, text=True
    ).stdout
    return "NeedDaemonReload=yes" in shown


def differs(entry, backup):
    """Return whether what a path had before is something else, or another's."""
    was = backup[entry["path"]] or {"kind": "absent"}
    wanted = {**entry, "mode": entry["mode"].lstrip("0")} if "mode" in entry else entry
    parts = ("kind", "target", "content", "mode", "owner", "group")
    return any(was.get(part) != wanted[part] for part in parts if part in wanted)


def check_staged(entries, command):
    """Run a checker on the new files before they are in place; $STAGE is the root they lie under."""
    if not command:
        return ""
    stage = tempfile.mkdtemp(prefix="tierstack-", dir="/run")
    try:
        for entry in entries:
            if entry["kind"] == "file":
                target = stage + entry["path"]
                os.makedirs(os.path.dirname(target), exist_ok=True)
                with open(target, "wb") as file:
                    file.write(base64.b64decode(entry["content"]))
        return run(command, STAGE=stage)
    finally:
        shutil.rmtree(stage)


def put(entry):
    path, kind = entry["path"], entry["kind"]
    if kind == "absent":
        if os.path.islink(path) or os.path.isfile(path):
            os.unlink(path)
        elif os.path.isdir(path):
            os.rmdir(path)
        return
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    if kind == "link":
        if os.path.islink(path) or os.path.isfile(path):
            os.unlink(path)
        os.symlink(entry["target"], path)
        return
    owner, group = pwd.getpwnam(entry["owner"]).pw_uid, grp.getgrnam(entry["group"]).gr_gid
    mode = int(entry["mode"], 8)
    if kind == "directory":
        if not os.path.isdir(path):
            os.mkdir(path, 0o700)
        os.chown(path, owner, group)
        os.chmod(path, mode)
        return
    write_atomically(path, base64.b64decode(entry["content"]), mode, owner, group)


def write_atomically(path, content, mode, owner, group):
    descriptor, temporary = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".tierstack-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            os.fchown(file.fileno(), owner, group)
            os.fchmod(file.fileno(), mode)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def take_backup(path):
    """Keep what is needed to undo an entry; None for what was not there."""
    found = look_at(path)
    if found["kind"] == "absent":
        return None
    if found["kind"] == "link":
        return {"path": path, **found}
    backup = {"path": path, **found}
    if found["kind"] == "file":
        with open(path, "rb") as file:
            backup["content"] = base64.b64encode(file.read()).decode()
    return backup


def restore(backup):
    for path, entry in reversed(list(backup.items())):
        if entry is not None:
            put(entry)
        elif os.path.isdir(path) and not os.path.islink(path):
            try:
                os.rmdir(path)
            except OSError:
                pass  # A program has put something in: leave it.
        elif os.path.lexists(path):
            os.unlink(path)


def run(command, **environment):
    """Run a shell command; return "" or what it said when it failed."""
    if not command:
        return ""
    done = subprocess.run(
        ["sh", "-c", command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, "LC_ALL": "C.UTF-8", **environment},
    )
    if done.returncode == 0:
        return ""
    # Of a long script the first line, which says what it is for.
    shown = command.strip().splitlines()[0]
    return "%s\n(exit status %d of: %s)" % (done.stdout.strip(), done.returncode, shown)


def journal(unit):
    if not unit:
        return ""
    return subprocess.run(
        ["journalctl", "-u", unit, "-n", "15", "--no-pager", "-o", "cat"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ).stdout.strip()


def fail(error, state):
    print(error.strip(), file=sys.stderr)
    print("tierstack: " + state, file=sys.stderr)
    return 1
