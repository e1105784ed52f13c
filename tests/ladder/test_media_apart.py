"""A single server gets a media host: its uploads move there, while visitors look at them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from tests.needs import need_root
from tests.operator import ROOT, Operator, assert_nothing_changed
from tests.uploads import log_in, upload
from tests.visitor import steady_visitor, steady_writer

#: The lab of the other stories of media hosts, which is down by now.
_LAB = {
    "TIERSTACK_LAB_DIR": "/var/lib/tierstack-test-media-lab",
    "TIERSTACK_LAB_SUBNET": "10.77.25.0/24",
}

_FILES = "/srv/example/media"


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    """Somebody with one host, freshly deployed."""
    need_root()
    home = tmp_path_factory.mktemp("apart")
    shutil.copytree(ROOT / "inventories" / "ladder", home, dirs_exist_ok=True)
    shutil.copytree(ROOT / "example", home / "example")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in _LAB.items():
            patch.setenv(name, value)
        somebody = Operator.at(home / "1-single-server.py")
        somebody.edit("../../example", "example", "group_data/all.py")
        with somebody.fresh_hosts():
            somebody.deploy_well()
            yield somebody


def test_uploads_leave_the_single_server(operator: Operator) -> None:
    """The deploy names the task; with it, and after it, no read fails and no upload is lost."""
    editor = log_in(operator)
    url, _ = upload(operator, editor, "of one server.png", server="Apache")
    line = "\ncluster(__file__)"
    operator.edit(line, f'\nmedia = [lab_host("media1", 41)]\n{line}', "1-single-server.py")
    operator.lab("up", str(operator.inventory))
    refused = operator.deploy()
    assert refused.status != 0
    assert (
        f"MEDIA_ROOT {_FILES} lies on web1, which is no media host of this inventory, and would be out"
        f" of sight; nothing was changed. Type: pyinfra {operator.inventory} tasks/move_media.py --data"
        " to=media1; then deploy again"
    ) in refused.err
    with (
        steady_visitor(operator.door, url) as files,
        steady_writer(operator.door) as written,
    ):
        done = operator.run_file("tasks/move_media.py", "--data=to=media1")
        assert done.status == 0, done.said[-6000:]
        upload(operator, editor, "after the move.png", server="Apache")
    assert files.requests > 100
    assert files.failed == [], files.failed
    assert written.failed == [], written.failed
    with steady_writer(operator.door) as written:
        operator.deploy_well()
    assert written.failed == [], written.failed
    assert_nothing_changed(operator.deploy())
    assert operator.ask("media1", f"ls {_FILES}/articles").splitlines() == [
        "after_the_move.png",
        "of_one_server.png",
    ]
    assert operator.ask("web1", f"ls {_FILES}.aside-*/articles") == "of_one_server.png"
    assert "type on it: rm -r /srv/example/media.aside-" in done.err
    upload(operator, editor, "of two hosts.png")
