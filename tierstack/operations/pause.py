"""Visitors wait while a site's data moves: no request is under way, and none fails.

Reason: pyinfra has no notion of visitors. Balancers cannot hold them all at one moment, nor do they
know when the last request that they have sent has ended.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial

from tierstack.model import Cluster
from tierstack.operations.remote import HostError, at_once, tell

#: Longest that requests under way are waited for, in seconds.
_ENTER_S = 8

#: Longest pause, in seconds; then requests go on, whatever has become of the run. As long as a
#: balancer lets a visitor wait for a worker.
_LONGEST_S = 20

_UNIT = "tierstack-pause.service"
_PROGRAM = "/usr/local/lib/tierstack/web-pause"

# Where Apache does not run, nobody asks. A unit that a run which died has left is not ours.
_BEGIN = f"""
systemctl is-active --quiet apache2.service || exit 0
[ -x {_PROGRAM} ] && [ -e /run/tierstack/door ] ||
    {{ echo 'it was deployed by an older version; deploy first' >&2; exit 1; }}
systemctl stop {_UNIT} 2>/dev/null
systemd-run --quiet --collect --unit={_UNIT} --service-type=notify \
    --property=TimeoutStartSec={_ENTER_S} --property=RuntimeMaxSec={_LONGEST_S} {_PROGRAM} ||
    {{ echo 'requests that are under way do not end within {_ENTER_S} s; try again' >&2; exit 1; }}
"""
_STILL = f"""
systemctl is-active --quiet {_UNIT} || ! systemctl is-active --quiet apache2.service ||
    {{ echo 'requests were held back for {_LONGEST_S} s, and go on now' >&2; exit 1; }}
"""
_END = f"systemctl stop {_UNIT} 2>/dev/null || true"


@contextmanager
def paused(cluster: Cluster) -> Iterator[Callable[[], None]]:
    """
    Hold the requests of all web hosts back once those that are under way have ended.

    Used from inside of an operation, for a few seconds. It ends by itself after 20 s, so that no
    visitor waits for a run that has died. What a site does by itself, such as cron jobs, goes on.

    Args:
        cluster: the cluster; all of its web hosts take part in the run.

    Yields:
        A function that raises HostError if the pause has ended by itself.

    Raises:
        HostError: requests do not end in time, or a web host does not answer; nobody is held back.
    """
    try:
        _tell_all(cluster, _BEGIN)
        yield lambda: _tell_all(cluster, _STILL)
    finally:
        # One that does not answer ends its pause by itself.
        with suppress(HostError):
            _tell_all(cluster, _END)


def _tell_all(cluster: Cluster, command: str) -> None:
    at_once(partial(tell, host.name, command) for host in cluster.tier("web"))
