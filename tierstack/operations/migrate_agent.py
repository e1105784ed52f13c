"""Runs on a web host, never imported on the controller: applies a site's migrations, and ends with the run.

It is sent over standard input with one request. The site's own Django does the work, in a process of
the site's account (`migrate_site.py`); this program waits for it, and ends it when the run that has
asked for it is gone: nobody would read what becomes of it, and the next run begins it anew.

    {"account": "example", "manage": "/etc/tierstack/sites/…/manage", "program": "…",
     "lock": path of the run's lock}

It prints {"result": what the program says of itself, or null, "output": its last lines}.
"""

import fcntl
import json
import os
import signal
import subprocess
import sys

MARK = "tierstack-migrated: "
LINES = 25
LOOK_S = 0.5
END_S = 5


def main(request):
    # A terminal's hang-up or a controller that died is seen by the run's lock: its own connection
    # holds it for as long as it lives.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    run = holder(request["lock"])
    if not run:
        sys.exit("the run that has asked for it is gone")
    # What a run that was cut off has left at work here ends first; the lock ends with it.
    with open(os.path.join(os.path.dirname(request["lock"]), "migrate"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        output = execute(request, run)
    lines = output.splitlines()
    said = [line for line in lines if line.startswith(MARK)]
    result = json.loads(said[-1][len(MARK) :]) if said else None
    shown = [line for line in lines if not line.startswith(MARK)]
    print(json.dumps({"result": result, "output": shown[-LINES:]}))


def execute(request, run):
    """Run the program in the site's Django until it, or the run, has ended; return what it prints."""
    command = ["runuser", "-u", request["account"], "--", request["manage"]]
    command += ["shell", "--verbosity=0", "--command=" + request["program"]]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        cwd="/",
        start_new_session=True,
        env={**os.environ, "LC_ALL": "C.UTF-8"},
    )
    while True:
        try:
            return process.communicate(timeout=LOOK_S)[0]
        except subprocess.TimeoutExpired:
            if holder(request["lock"]) != run:
                return end(process)


def end(process):
    """End a process and its children; PostgreSQL rolls back what they were at within a second."""
    os.killpg(process.pid, signal.SIGTERM)
    try:
        return process.communicate(timeout=END_S)[0]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return process.communicate()[0]


def holder(path):
    """Return who has this host's run lock, as the run says of itself; "" if nobody has."""
    try:
        with open(path, errors="replace") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return lock.read()
    except FileNotFoundError:
        pass
    return ""
