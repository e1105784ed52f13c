"""MEDIA_ROOT from one host to another while visitors read and write.

Reason: what happens on several hosts within one pause cannot be operations of each: between two of
them pyinfra waits for all hosts, and a failure would leave visitors waiting.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from pyinfra import logger
from pyinfra.api.command import PyinfraCommand
from pyinfra.api.operation import operation

from tierstack.model import Cluster, Host, Site
from tierstack.model.media_home import is_noted
from tierstack.operations.media_root import MEDIA_AGENT, mark_request
from tierstack.operations.pause import paused
from tierstack.operations.remote import HostError, at_once, tell, tell_program

#: A look at all files must fit into the pause twice, beside the change of the mounts, in seconds.
_LOOK_S = 5

#: How often what has changed meanwhile is copied before visitors wait.
_PASSES = 4

#: How long a copy of everything may take, in seconds.
_PATIENCE_S = 7 * 86400

#: If a run dies while nobody may write, the old host opens again after so long, in seconds.
_UNDO_S = 25

_UNDO = "tierstack-move-undo"


@dataclass(frozen=True)
class Way:
    """
    How MEDIA_ROOT goes from one host to another.

    Args:
        source: the host that has it.
        target: the host that gets it, where rsync's server takes it as a copy.
        url: rsync's address of the target, without the site's name.
        password: what rsync's server there asks for.
        shut: shell command by which the source lets nobody write any more; "" if only it writes.
        reopen: shell command that takes this back.
        writers: names of the hosts that mount it now and write there.
        unmount: shell command by which one of these does without.
        remount: shell command that takes this back.
        mounts: by host name, what `agent.py` is asked to have it mount from the target.
        merges: whether the target has had uploads of its own, and keeps them.
        keeps: whether the source keeps its files as a copy of the target's.
        leaves: names of the hosts whose files have no part in it any more: the source's, or copies.
    """

    source: Host
    target: Host
    url: str
    password: str = field(repr=False)
    shut: str
    reopen: str
    writers: Sequence[str]
    unmount: str
    remount: str
    mounts: Mapping[str, dict[str, Any]] = field(repr=False)
    merges: bool
    keeps: bool
    leaves: Sequence[str]


class _Act(PyinfraCommand):
    """A command that runs a function of ours; a HostError is the host's failure."""

    def __init__(self, act: Callable[[], None], shown: str) -> None:
        super().__init__()
        self._act, self._shown = act, shown

    def __repr__(self) -> str:
        return self._shown

    def execute(self, state: Any, host: Any, connector_arguments: Any) -> bool:
        """Run it; log what went wrong."""
        try:
            self._act()
        except HostError as error:
            logger.error(f"{host.print_prefix}{error}")
            return False
        return True


@operation()
def moved(cluster: Cluster, way: Way) -> Generator[PyinfraCommand, None, None]:
    """
    Move MEDIA_ROOT of all sites; run for one host, with every host of the cluster in the run.

    Until the source's mark changes nothing has changed: it serves on, and the run fails. From there
    the same task again finishes.

    Args:
        cluster: the cluster as it is afterwards.
        way: how it goes.
    """
    act = _merge if way.merges else _move
    yield _Act(lambda: act(cluster, way), f"moves MEDIA_ROOT from {way.source.name}")


@operation()
def mounts_moved(
    cluster: Cluster, way: Way, names: Sequence[str]
) -> Generator[PyinfraCommand, None, None]:
    """
    Finish a move that was cut off once the target had MEDIA_ROOT.

    Args:
        cluster: the cluster.
        way: how it went.
        names: the hosts that still mount it from elsewhere.
    """
    if names:
        yield _Act(
            lambda: _finish(cluster, way, names), f"mounts MEDIA_ROOT from {way.target.name}"
        )


def _move(cluster: Cluster, way: Way) -> None:
    for site in cluster.sites:
        _copy_live(way, site)
    with paused(cluster) as still:
        try:
            _shut(cluster, way)
            for site in cluster.sites:
                _copy_last(way, site)
            still()
            _hand_over(cluster, way)
            _mount(way, list(way.mounts))
        except HostError as error:
            # Before visitors go on: they find it open.
            raise HostError(f"{error}; {_state(cluster, way)}") from None
    at_once(
        partial(tell, name, f"systemctl stop {_UNDO}.timer 2>/dev/null || true")
        for name in (way.source.name, *way.writers)
    )
    if way.keeps:
        _mark(cluster, way.source, "copy", proved=True)
    for name in way.leaves:
        _leave(cluster, name)


def _merge(cluster: Cluster, way: Way) -> None:
    """
    Bring what only the source has to a target that has had uploads of its own, and name what differs.

    Nothing that the target has changes, and what differs stays on the source, aside.
    """
    # Whoever writes on the source fails until it writes on the target: nothing comes to it any more.
    if way.shut:
        tell(way.source.name, way.shut)
    _mount(way, list(way.mounts))
    differing = []
    for site in cluster.sites:
        said = _rsync(
            way, site, "--dry-run", "--checksum", "--existing", "--itemize-changes", delete=False
        )
        # Source: rsync(1), "--itemize-changes": files and links whose contents are others.
        lines = [line for line in said.splitlines() if line[:2] in ("<f", "cL")]
        differing += [f"{site.media_root}/{line.partition(' ')[2]}" for line in lines]
        _rsync(way, site, "--ignore-existing", delete=False)
    for path in differing:
        logger.warning(
            f"{path} differs: the one of {way.target.name} is served, that of {way.source.name} is kept"
            " aside there"
        )
    if way.keeps:
        said = _mark(cluster, way.source, "copy", proved=not differing)
        if said.strip():
            logger.warning(f"{way.source.name}: {said.strip()}")
    for name in way.leaves:
        _leave(cluster, name)


def _finish(cluster: Cluster, way: Way, names: Sequence[str]) -> None:
    _mount(way, names)
    for name in names:
        _leave(cluster, name)


def _copy_live(way: Way, site: Site) -> None:
    """Copy while visitors read and write, until all was compared by content and little is left."""
    for checked in (False, True):
        _rsync(way, site, *(["--checksum"] if checked else []))
    for _ in range(_PASSES):
        began = time.monotonic()
        _rsync(way, site)
        took_s = time.monotonic() - began
        if took_s <= _LOOK_S:
            return
    raise HostError(
        f"{way.source.name}: a look at all files of {site.media_root} takes {took_s:.0f} s, and visitors"
        f" wait for {_LOOK_S} s at most; nothing has changed. Move fewer files at a time, or when the"
        " disks have less to do"
    )


def _copy_last(way: Way, site: Site) -> None:
    """Copy what has changed since, and prove that nothing differs: names, sizes, times, kinds, rights."""
    _rsync(way, site, vanishing=False)
    said = _rsync(way, site, "--dry-run", "--itemize-changes").splitlines()
    # Sockets and pipes are no uploads.
    different = [line for line in said if line.strip() and not line.startswith("skipping non-reg")]
    if different:
        raise HostError(
            f"{way.source.name}: files of {site.media_root} change though nobody may write:"
            f" {different[0]}"
        )


def _rsync(way: Way, site: Site, *more: str, vanishing: bool = True, delete: bool = True) -> str:
    """
    Copy a site's files, and return what rsync says.

    Args:
        way: how they go.
        site: the site.
        more: further options.
        vanishing: whether files may go while they are read.
        delete: whether what the source has not goes from the target.
    """
    # As the site's account: root would follow links that the site puts in its way. What the account
    # learns by it, the password, lets it write what is its own.
    command = [
        "setpriv", f"--reuid={site.account}", f"--regid={site.account}", "--clear-groups",
        "rsync", "-rlpts", *(["--delete"] if delete else []), "--modify-window=-1", "--no-motd",
        "--exclude=.nfs*", "--exclude=.fuse_hidden*",
        "--timeout=600", "--contimeout=5", *more,
        f"{site.media_root}/", f"{way.url}/{site.name}/",
    ]  # fmt: skip
    gone = "; [ $status = 24 ] && status=0" if vanishing else ""
    # Says that its disk is there: an empty one would empty the copy.
    noted = is_noted(site, "home", "leaving")
    script = (
        f"{noted} || {{ echo '{site.media_root} is not what was noted; is its disk mounted?' >&2; exit 1; }}\n"
        f"read -r RSYNC_PASSWORD; export RSYNC_PASSWORD\n{shlex.join(command)}; status=$?{gone}; exit $status"
    )
    return tell(way.source.name, script, f"{way.password}\n", patience_s=_PATIENCE_S)


def _shut(cluster: Cluster, way: Way) -> None:
    """Let nobody write on the source; if this run dies it opens again by itself."""
    # First of all: without its server, NFS lets go of a mount only after seconds, while visitors wait.
    at_once(partial(tell, name, _with_undo(way.unmount, way.remount)) for name in way.writers)
    if way.shut:
        marks = " && ".join(is_noted(site, "home") for site in cluster.sites)
        tell(way.source.name, _with_undo(way.shut, f"if {marks}; then {way.reopen}; fi"))


def _with_undo(command: str, undo: str) -> str:
    """Return a shell command that is taken back by itself unless somebody stops the undo's timer."""
    return (
        f"systemctl stop {_UNDO}.timer 2>/dev/null; systemd-run --quiet --collect --unit={_UNDO}"
        f" --on-active={_UNDO_S}s --timer-property=AccuracySec=1s sh -c {shlex.quote(undo)} && {command}"
    )


def _hand_over(cluster: Cluster, way: Way) -> None:
    """
    Change both notes: the source's first, so that never two hosts take uploads.

    Between the two nobody has MEDIA_ROOT: the source serves on, and the same task again copies anew.
    """
    _mark(cluster, way.source, "leaving")
    try:
        _mark(cluster, way.target, "home")
    except HostError:
        _mark(cluster, way.source, "home")
        raise


def _mark(cluster: Cluster, host: Host, role: str, *, proved: bool = False) -> str:
    return tell_program(host.name, MEDIA_AGENT, mark_request(cluster.sites, role, proved=proved))


def _mount(way: Way, names: Sequence[str]) -> None:
    at_once(partial(tell_program, name, "agent.py", way.mounts[name]) for name in names)


def _state(cluster: Cluster, way: Way) -> str:
    """Open the source again where it still has MEDIA_ROOT, and return how things are."""
    again = "Type the same again, and the move is finished"
    site = cluster.sites[0]
    try:
        home = tell(way.source.name, f"{is_noted(site, 'home')} && echo yes || echo no")
        if home.strip() != "yes":
            return f"MEDIA_ROOT is on its way to {way.target.name}. {again}"
        if way.reopen:
            tell(way.source.name, way.reopen)
    except HostError:
        return f"whether {way.source.name} still has MEDIA_ROOT is not known. {again}"
    # One that does not answer mounts it by itself.
    with suppress(HostError):
        at_once(partial(tell, name, way.remount) for name in way.writers)
    return f"MEDIA_ROOT lies on {way.source.name} as before, and nothing has changed"


def _leave(cluster: Cluster, name: str) -> None:
    """Move what lies on a host under its mounts aside, where it does no harm; it is never deleted."""
    for where in tell_program(name, MEDIA_AGENT, mark_request(cluster.sites, "none")).splitlines():
        logger.warning(
            f"the files of before still lie on {name} in {where}; once you have seen that all is"
            f" well, type on it: rm -r {where}"
        )
