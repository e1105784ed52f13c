"""Runs on a host, never imported on the controller: holds the host's lock while a run's connection lives.

Says "ours", or "held" and who has it; anything else means that the lock was not taken. It keeps it
until its input ends or falls silent: a run sends a byte every few seconds.
"""

import fcntl
import os
import select
import sys
import time
from pathlib import Path
from typing import IO

#: In a directory of root's alone: whoever can open a lock can hold it.
LOCK = "/run/tierstack/locks/run"

#: What has just ended is still on its way out, in seconds.
ENDING_S = 3
#: Who holds it and has been silent for so long may have vanished, in seconds.
DOUBTFUL_S = 15
#: Who has been silent for so long lets it go, in seconds.
SILENT_S = 45


def main(me: str, path: str = LOCK) -> None:
    """Take the lock as `me`, which says who and since when."""
    file = Path(path)
    file.parent.parent.mkdir(exist_ok=True)
    file.parent.mkdir(mode=0o700, exist_ok=True)
    with file.open("a+") as lock:
        began = time.monotonic()
        while not taken(lock):
            waited = time.monotonic() - began
            silent_s = time.time() - os.fstat(lock.fileno()).st_mtime
            if (waited > ENDING_S and silent_s < DOUBTFUL_S) or waited > SILENT_S + ENDING_S:
                lock.seek(0)
                print("held " + lock.read(), flush=True)
                return
            time.sleep(0.2)
        lock.truncate(0)
        lock.write(me)
        lock.flush()
        print("ours", flush=True)
        while select.select([0], [], [], SILENT_S)[0] and os.read(0, 99):
            os.utime(lock.fileno())


def taken(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


if __name__ == "__main__":
    main(*sys.argv[1:])
