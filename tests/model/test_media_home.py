"""Where MEDIA_ROOT lies follows from what the hosts hold; what cannot be told is refused."""

from __future__ import annotations

import pytest

from tests.model.conftest import HOSTS, Home
from tierstack.model import Cluster
from tierstack.model.media_home import MediaHomeError, MediaRoot, decide_home, decide_source

PATH = "/srv/blog/media"
NOTHING = MediaRoot()
HOME, COPY, LEAVING = (MediaRoot(mark=mark, files=True) for mark in ("home", "copy", "leaving"))
FILES = MediaRoot(files=True)

_MEDIA = 'media = [("media1", {"address": "10.0.0.41", "memory_mb": 512})]'
_TWO = HOSTS.replace(_MEDIA, _MEDIA[:-1] + ', ("media2", {"address": "10.0.0.42"})]')


def _mounts(address: str) -> MediaRoot:
    return MediaRoot(source=address)


def _cluster(home: Home, hosts: str = _TWO, more: str = "") -> Cluster:
    home.inventory(hosts, more)
    return home.load()


def _decided(cluster: Cluster, found: dict[str, MediaRoot], *, limited: bool = False) -> str:
    every = found if limited else {host.name: NOTHING for host in cluster.hosts} | found
    return decide_home(cluster, every, PATH)


def _refused(cluster: Cluster, found: dict[str, MediaRoot], *, limited: bool = False) -> str:
    with pytest.raises(MediaHomeError) as caught:
        _decided(cluster, found, limited=limited)
    return str(caught.value).replace(str(cluster.inventory), "prod.py")


@pytest.mark.parametrize(
    ("found", "name"),
    [
        ({}, "media1"),
        ({"media2": HOME}, "media2"),
        ({"media1": COPY, "media2": HOME}, "media2"),
        ({"media2": HOME, "web1": _mounts("10.0.0.41"), "web2": _mounts("10.0.0.42")}, "media2"),
        ({"web1": _mounts("10.0.0.42"), "web2": _mounts("10.0.0.42")}, "media2"),
        ({"media2": FILES}, "media2"),
        ({"media1": FILES, "media2": FILES}, "media1"),
        ({"media1": LEAVING, "media2": HOME}, "media2"),
    ],
    ids=[
        "an empty cluster has it on the first line",
        "its mark says where",
        "a copy is no home",
        "a mark says more than mounts, which a move that was cut off has left",
        "mounts of before there were marks",
        "files of before there were marks",
        "of several with files the first line, as before",
        "the end of a move",
    ],
)
def test_home_is_where_the_data_is(home: Home, found: dict[str, MediaRoot], name: str) -> None:
    """Marks, then mounts, then files; the first line only decides on an empty cluster."""
    cluster = _cluster(home)
    assert _decided(cluster, found) == name
    moved = cluster.with_media_home(name)
    assert moved.media_home.name == name
    assert [copy.name for copy in moved.copies] == [
        other for other in ("media1", "media2") if other != name
    ]


def test_limited_run_knows_by_mounts(home: Home) -> None:
    """What the hosts of the run know decides; where they know nothing, and it matters, it is refused."""
    cluster = _cluster(home)
    assert _decided(cluster, {"web1": _mounts("10.0.0.42")}, limited=True) == "media2"
    assert _decided(cluster, {"media2": HOME}, limited=True) == "media2"
    assert _decided(cluster, {"db1": NOTHING}, limited=True) == "media1"
    assert _refused(cluster, {"lb1": NOTHING}, limited=True) == (
        f"on which host MEDIA_ROOT {PATH} lies cannot be told without media1 and media2, not asked in"
        " this run; nothing was changed. Run it without --limit, or with --limit media1 --limit media2"
        " as well"
    )
    one = _cluster(home, HOSTS)
    assert _decided(one, {"web1": NOTHING}, limited=True) == "media1"


@pytest.mark.parametrize(
    ("hosts", "found", "lies_on", "tier", "to"),
    [
        (HOSTS, {"web1": HOME}, "web1", "media", "media1"),
        (HOSTS, {"web1": FILES}, "web1", "media", "media1"),
        (HOSTS, {"cache1": HOME}, "cache1", "media", "media1"),
        (HOSTS, {"web1": _mounts("10.0.0.31")}, "cache1", "media", "media1"),
    ],
    ids=[
        "a media host was added to a single server",
        "to one that knew no marks",
        "the line of a media host has left its tier",
        "mounts say so",
    ],
)
def test_home_that_is_no_candidate_is_moved_first(
    home: Home, hosts: str, found: dict[str, MediaRoot], lies_on: str, tier: str, to: str
) -> None:
    """Files that would be out of sight stop the deploy, which names the task that brings them."""
    assert _refused(_cluster(home, hosts), found) == (
        f"MEDIA_ROOT {PATH} lies on {lies_on}, which is no {tier} host of this inventory, and would be"
        " out of sight; nothing was changed. Type: pyinfra prod.py tasks/move_media.py --data"
        f" to={to}; then deploy again"
    )


def test_media_host_is_no_candidate_beside_storage(home: Home) -> None:
    """A storage host that was added gets the files by the task, not by a deploy."""
    cluster = _cluster(home, HOSTS, 'storage = [("storage1", {"address": "10.0.0.51"})]')
    said = _refused(cluster, {"media1": HOME})
    assert "lies on media1, which is no storage host of this inventory" in said
    assert "--data to=storage1;" in said


def test_home_that_is_not_there_is_put_back(home: Home) -> None:
    """Web hosts mount from a host that has left, or only copies are there: nothing begins anew."""
    cluster = _cluster(home)
    assert _refused(cluster, {"web1": _mounts("10.0.0.49")}) == (
        f"MEDIA_ROOT {PATH} lies on 10.0.0.49, which is no host of this inventory; nothing was changed."
        " Put its line back, and to have it elsewhere, move it first (docs/moving.md)"
    )
    lost = f"mv {PATH}/.tierstack-copy {PATH}/.tierstack-home; then deploy again"
    assert _refused(cluster, {"web1": _mounts("10.0.0.49"), "media1": COPY, "media2": COPY}) == (
        f"MEDIA_ROOT {PATH} lies on 10.0.0.49, which is no host of this inventory; nothing was changed."
        " Put its line back, and to have it elsewhere, move it first (docs/moving.md); or, if it is lost"
        f" for good, type on the one of media1 and media2 with the newest files: {lost}"
    )
    assert _refused(cluster, {"media2": COPY}) == (
        f"media2 keeps a copy of MEDIA_ROOT {PATH}, and the host that it was copied from is not in this"
        " inventory; nothing was changed. Put its line back; or, if it is lost for good, type on"
        f" media2: {lost}"
    )


def test_two_homes_are_touched_by_nobody(home: Home) -> None:
    """Which one counts is for people to say."""
    assert _refused(_cluster(home), {"media1": HOME, "media2": HOME}) == (
        f"media1 and media2 both say that they have MEDIA_ROOT {PATH}; nothing was changed. Find out"
        f" which one has the uploads that you keep; on the other type: mv {PATH} {PATH}.old; then"
        " deploy again"
    )


def test_disk_that_is_not_there_is_mounted_first(home: Home) -> None:
    """An empty directory where the data was is an unmounted disk until somebody says otherwise."""
    found = {"media1": MediaRoot(noted=True), "media2": COPY, "web1": _mounts("10.0.0.41")}
    assert _refused(_cluster(home), found) == (
        f"MEDIA_ROOT {PATH} lies on media1, and its mark .tierstack-home is not there; nothing was"
        " changed. Mount its disk; or, if nothing is missing there, type on it:"
        f" touch {PATH}/.tierstack-home; then deploy again"
    )


def test_what_cannot_be_told_is_asked(home: Home) -> None:
    """Mounts of two hosts, or files on two of which none is the first."""
    cluster = _cluster(home)
    mounts = {"web1": _mounts("10.0.0.41"), "web2": _mounts("10.0.0.42")}
    assert _refused(cluster, mounts) == (
        f"MEDIA_ROOT {PATH} is mounted from 10.0.0.41 and 10.0.0.42 by different hosts; nothing was"
        " changed. Find out which one has the uploads that you keep, and type on it:"
        f" touch {PATH}/.tierstack-home; then deploy again"
    )
    assert _refused(cluster, {"web1": FILES, "media2": FILES}) == (
        f"web1 and media2 each hold files in {PATH}; nothing was changed. Find out which ones you keep,"
        f" and type on that host: touch {PATH}/.tierstack-home; then deploy again"
    )


def test_move_that_was_cut_off_is_finished_by_the_task(home: Home) -> None:
    """A deploy does not guess where it was to go; the task takes the files from where they were."""
    cluster = _cluster(home)
    found = {"media1": LEAVING, "media2": COPY, "web1": _mounts("10.0.0.41")}
    assert _refused(cluster, found) == (
        "a move of MEDIA_ROOT away from media1 was cut off, and uploads wait for its end; nothing was"
        " changed. Type: pyinfra prod.py tasks/move_media.py --data to=HOST, with the same HOST as"
        " before"
    )
    assert decide_source(cluster, found, PATH, "media2") == "media1"
    assert decide_source(cluster, {**found, "media2": HOME}, PATH, "media2") == "media2"
    assert decide_source(cluster, {"web1": HOME}, PATH, "media1") == "web1"
