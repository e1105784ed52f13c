"""Runs on a web host, never imported on the controller: applies a site's migrations, and ends with the run.

It is sent over standard input with one request. The site's own Django does the work, in a process of
the site's account (`migrate_site.py`); this program waits for it, and ends it when the run that has
asked for it is gone: nobody would read what becomes of it, and the next run begins it anew.

    {"account": "example", "manage": "/etc/tierstack/sites/…/manage", "program": "…",
     "lock": path of the run's lock, "limit_s": longest that it may take,
     "programs": path of `web-release`, whose way of running a site's code is used}

It prints {"result": what the program says of itself, or null, "output": its last lines, "ended":
whether it took too long}.
"""

import fcntl
import json
import os
import signal
import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader

MARK = "tierstack-migrated: "
LINES = 25
UNIT = "tierstack-migrate.service"
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
        output, ended = execute(request, run)
    lines = output.splitlines()
    said = [line for line in lines if line.startswith(MARK)]
    result = json.loads(said[-1][len(MARK) :]) if said else None
    shown = [line for line in lines if not line.startswith(MARK)]
    print(json.dumps({"result": result, "output": shown[-LINES:], "ended": ended}))


def execute(request, run):
    """
    Run the program in the site's Django until it, the run or its time has ended.

    Return what it prints, and whether it took too long. With it all ends that it has started, and
    PostgreSQL rolls back what they were at within a second.
    """
    release = loaded(request["programs"])
    command = [request["manage"], "shell", "--verbosity=0", "--command=" + request["program"]]
    gently = {"KillSignal": "SIGTERM", "TimeoutStopSec": str(END_S)}
    try:
        done = release.in_unit(
            "its migrations",
            command,
            request["account"],
            "/",
            request["limit_s"],
            gently,
            unit=UNIT,
            wanted=lambda: holder(request["lock"]) == run,
        )
    except release.TooLongError as problem:
        return problem.output, True
    return done.stdout, False


def loaded(path):
    """Return a program of ours on this host, as a module."""
    sys.dont_write_bytecode = True
    spec = spec_from_loader("web_release", SourceFileLoader("web_release", path))
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
