"""What holds for the whole run of the tests."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.prepare import preparations

_ON_HOSTS = ("tests/lab/", "tests/stories/", "tests/ladder/", "tests/vm/")
_ON_VMS = "tests/vm/"
_WITH_BROWSER = "tests/ladder/"


@pytest.hookimpl(wrapper=True)
def pytest_runtestloop(session: pytest.Session) -> Iterator[None]:
    """Prepare for tests on hosts while tests run that need none."""
    on_hosts = [item for item in session.items if item.nodeid.startswith(_ON_HOSTS)]
    alone = len(on_hosts) in (0, len(session.items))
    if alone or os.geteuid() != 0 or session.config.option.collectonly:
        return (yield)
    browser, vms = (
        any(item.nodeid.startswith(place) for item in on_hosts)
        for place in (_WITH_BROWSER, _ON_VMS)
    )
    with preparations(browser=browser, vms=vms):
        return (yield)
