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


def _decided(
    cluster: Cluster, found: dict[str, MediaRoot], *, limited: bool = False, chosen: str = ""
) -> str:
    every = found if limited else {host.name: NOTHING for host in cluster.hosts} | found
    return decide_home(cluster, every, PATH, chosen)


def _refused(
    cluster: Cluster, found: dict[str, MediaRoot], *, limited: bool = False, chosen: str = ""
) -> str:
    with pytest.raises(MediaHomeError) as caught:
        _decided(cluster, found, limited=limited, chosen=chosen)
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
        " Put its line back, and to have it elsewhere, move it first (docs/moving.md); or, if it is lost"
        f" for good, put what you have of it into {PATH} on media1, and add --data media_home=media1 to"
        " the deploy"
    )
    assert _refused(cluster, {"web1": _mounts("10.0.0.49"), "media1": COPY, "media2": COPY}) == (
        f"MEDIA_ROOT {PATH} lies on 10.0.0.49, which is no host of this inventory; nothing was changed."
        " Put its line back, and to have it elsewhere, move it first (docs/moving.md); or, if it is lost"
        " for good, add --data media_home=HOST to the deploy, with the one of media1 and media2 that has"
        " the newest files"
    )
    assert _refused(cluster, {"media2": COPY}) == (
        f"media2 keeps a copy of MEDIA_ROOT {PATH}, and the host that it was copied from is not in this"
        " inventory; nothing was changed. Put its line back; or, if it is lost for good, add"
        " --data media_home=media2 to the deploy"
    )


def test_two_homes_are_brought_together_by_the_task(home: Home) -> None:
    """Which one shall have all is for people to say; it gets what the other has besides."""
    cluster = _cluster(home)
    found = {"media1": HOME, "media2": HOME}
    assert _refused(cluster, found) == (
        f"media1 and media2 both say that they have MEDIA_ROOT {PATH}; nothing was changed. Type: pyinfra"
        " prod.py tasks/move_media.py --data to=HOST, with the one that shall have it: it gets what only"
        " the other has, keeps its own where both have a file of one name, and each such file that"
        " differs is named; then deploy again"
    )
    assert decide_source(cluster, found, PATH, "media2") == "media1"
    with pytest.raises(MediaHomeError, match="both say that they have"):
        decide_source(cluster, found, PATH, "web1")
    assert _refused(cluster, found, chosen="media2") == _refused(cluster, found)


def test_somebody_says_where_it_lies(home: Home) -> None:
    """Where it cannot be told; what is known to be there already is not left behind."""
    cluster = _cluster(home)
    lost = {"web1": _mounts("10.0.0.49"), "media1": COPY, "media2": COPY}
    assert _decided(cluster, lost, chosen="media2") == "media2"
    replaced = {"media1": MediaRoot(noted=True), "media2": COPY, "web1": _mounts("10.0.0.41")}
    assert _decided(cluster, replaced, chosen="media1") == "media1"
    assert _decided(cluster, {"media1": HOME}, chosen="media1") == "media1"
    assert _refused(cluster, {"media1": HOME, "media2": COPY}, chosen="media2") == (
        f"MEDIA_ROOT {PATH} lies on media1, and nothing is missing there; nothing was changed. To have it"
        " on media2, type: pyinfra prod.py tasks/move_media.py --data to=media2; then deploy again"
    )
    assert _refused(cluster, {}, chosen="web1") == (
        f'"web1" cannot have MEDIA_ROOT {PATH}; nothing was changed. Write --data media_home=HOST with'
        " one of media1, media2"
    )
    assert _refused(cluster, {"media2": COPY}, limited=True, chosen="media2") == (
        f"media1 may have MEDIA_ROOT {PATH}, and has no part in this run; nothing was changed. Run it"
        " without --limit"
    )


def test_disk_that_is_not_there_is_mounted_first(home: Home) -> None:
    """An empty directory where the data was is an unmounted disk until somebody says otherwise."""
    found = {"media1": MediaRoot(noted=True), "media2": COPY, "web1": _mounts("10.0.0.41")}
    assert _refused(_cluster(home), found) == (
        f"MEDIA_ROOT {PATH} lies on media1, and another directory is there now; nothing was changed."
        " Mount its disk; or, if nothing is missing there, add --data media_home=media1 to the deploy"
    )


def test_what_cannot_be_told_is_asked(home: Home) -> None:
    """Mounts of two hosts, or files on two of which none is the first."""
    cluster = _cluster(home)
    mounts = {"web1": _mounts("10.0.0.41"), "web2": _mounts("10.0.0.42")}
    assert _refused(cluster, mounts) == (
        f"MEDIA_ROOT {PATH} is mounted from 10.0.0.41 and 10.0.0.42 by different hosts; nothing was"
        " changed. Find out which one has the uploads that you keep, and add --data media_home=HOST to"
        " the deploy"
    )
    assert _refused(cluster, {"web1": FILES, "media2": FILES}) == (
        f"web1 and media2 each hold files in {PATH}; nothing was changed. Find out which ones you keep,"
        " and add --data media_home=HOST to the deploy"
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
