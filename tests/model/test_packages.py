"""Whose packages all web hosts get for a release, and what counts as another one."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tierstack.agents import web_release
from tierstack.agents.web_release import differing, installed
from tierstack.model.packages import Packages, decide_packages

OLD, NEW = {"django": "5.2.1"}, {"django": "5.2.2"}


def answer(
    release: dict[str, str] | None = None,
    kept: dict[str, str] | None = None,
    kept_for: str = "text",
    *,
    served: bool = False,
) -> dict[str, Any]:
    """What `web-release packages` says on a host."""
    return {"release": release or {}, "served": served, "kept": kept or {}, "kept_for": kept_for}


@pytest.mark.parametrize(
    ("answers", "decided"),
    [
        ({}, Packages()),
        ({"web1": answer(), "web2": answer()}, Packages()),
        ({"web1": answer(), "web2": answer(OLD)}, Packages("web2", OLD)),
        ({"web1": answer(NEW), "web2": answer(OLD)}, Packages("web1", NEW)),
        ({"web1": answer(NEW), "web2": answer(OLD, served=True)}, Packages("web2", OLD)),
        ({"web1": answer(served=True), "web2": answer(OLD)}, Packages("web2", OLD)),
        ({"web1": answer(), "web2": answer(kept=OLD)}, Packages("web2", OLD)),
        ({"web1": answer(kept=OLD, kept_for="another"), "web2": answer()}, Packages()),
        ({"web1": answer(kept=OLD), "web2": answer(NEW)}, Packages("web2", NEW)),
    ],
)
def test_who_serves_decides(answers: dict[str, Any], decided: Packages) -> None:
    """Then who has laid it out, then who has kept packages of the same requirements; then the first."""
    assert decide_packages(answers.items(), "text") == decided


def test_packages_of_a_venv_are_read(tmp_path: Path) -> None:
    """Version and origin of each; what was built from the release's own source is no question."""
    place = tmp_path / "lib" / "python{}.{}".format(*sys.version_info) / "site-packages"
    origins: dict[str, object] = {
        "Django-5.2.1.dist-info": None,
        "zope.interface-7.0.dist-info": None,
        "my_thing-1.0+local.dist-info": {"vcs_info": {"vcs": "git", "commit_id": "abc1234"}},
        "an_archive-2.0.dist-info": {"archive_info": {"hash": "sha256=00ff"}},
        "shared-1.0.dist-info": {"dir_info": {}},
        "strange-1.0.dist-info": ["no", "object"],
        "hostile-1.0.dist-info": {"vcs_info": {"commit_id": "x\nroot: no commit"}},
        "legacy_thing-0.9-py3.11.egg-info": None,
        "django": None,
    }
    for name, origin in origins.items():
        (place / name).mkdir(parents=True)
        if origin is not None:
            (place / name / "direct_url.json").write_text(json.dumps(origin), encoding="utf-8")
    assert installed(str(tmp_path)) == {
        "django": "5.2.1",
        "zope-interface": "7.0",
        "my-thing": "1.0+local at abc1234",
        "an-archive": "2.0 with sha256=00ff",
        "strange": "1.0",
        "hostile": "1.0",
        "legacy-thing": "0.9",
    }
    assert installed(str(tmp_path / "nowhere")) == {}


def test_link_to_a_file_of_roots_is_not_read(tmp_path: Path) -> None:
    """The file that says where a package came from is the site's account's own making."""
    place = tmp_path / "lib" / "python{}.{}".format(*sys.version_info) / "site-packages"
    (place / "a-1.dist-info").mkdir(parents=True)
    secret = tmp_path / "secret.json"
    secret.write_text('{"vcs_info": {"commit_id": "abc1234"}}', encoding="utf-8")
    (place / "a-1.dist-info" / "direct_url.json").symlink_to(secret)
    assert installed(str(tmp_path)) == {"a": "1"}


def test_another_version_or_commit_differs() -> None:
    """A package that only one processor needs does not, nor what each venv begins with."""
    have = {"django": "5.2.1", "x": "1 at aaaaaaa", "only-here": "1", "pip": "23.0"}
    want = {"django": "5.2.2", "x": "1 at bbbbbbb", "only-there": "1", "pip": "24.0"}
    assert differing(have, want) == ["django", "x"]
    assert differing(have, have) == []


def test_pip_is_told_versions_and_no_addresses(tmp_path: Path) -> None:
    """Of what an address names, pip takes what lies there; whether it is the same is seen after."""
    web_release.constrain(str(tmp_path), {"x": "1 at aaaaaaa", "django": "5.2.2"})
    assert (tmp_path / "constraints.txt").read_text(encoding="utf-8") == "django==5.2.2\n"
