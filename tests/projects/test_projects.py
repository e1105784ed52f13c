"""Other people's projects, unchanged but for the lines that `tierstack check` asks for, all at once."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.browser import Browser
from tests.chromium import chromium
from tests.look import HTML, assert_sound
from tests.needs import lab_directory, need_root
from tests.operator import Deploy, Operator, assert_nothing_changed
from tests.projects.projects import PROJECTS, Project, generators
from tests.uploads import PASSWORD, PICTURE
from tests.visitor import Door

LAB = {
    "TIERSTACK_LAB_DIR": lab_directory("test-projects-lab"),
    "TIERSTACK_LAB_SUBNET": "10.77.27.0/24",
}

#: Deploys that go on at once: more would only share two processors.
_AT_ONCE = 2


@dataclass
class Somebody:
    """Somebody with a project, an own directory and a host."""

    operator: Operator
    asked: list[str]
    deploy: Deploy

    @property
    def door(self) -> Door:
        """The way into the site."""
        return self.operator.door_of(self.operator.cluster().tier("web")[0])


@pytest.fixture(scope="module")
def everybody(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Somebody]]:
    """Each project, made, checked, edited and deployed to a host of its own."""
    need_root()
    generators()
    home = tmp_path_factory.mktemp("projects")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in LAB.items():
            patch.setenv(name, value)
        lab = Operator.at(home / "no.py")
        hosts = [f'lab_host("{p.name}", {10 + number})' for number, p in enumerate(PROJECTS)]
        lab.tierstack("lab", "down")
        try:
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                each = list(pool.map(_deployed, [home] * len(hosts), PROJECTS, hosts))
            yield {project.name: one for project, one in zip(PROJECTS, each, strict=True)}
        finally:
            lab.tierstack("lab", "down")


def _deployed(home: Path, project: Project, line: str) -> Somebody:
    source, ops = home / project.name, home / f"{project.name}-ops"
    project.make(source)
    operator = Operator.at(ops / "prod.py")
    made = operator.tierstack("new", str(ops), "--source", str(source))
    assert made.status == 0, made.said
    # What only the user knows: hosts and names.
    operator.inventory.write_text(
        "from tierstack.inventory import cluster\nfrom tierstack.lab import lab_host\n\n"
        f"web = [{line}]\ndb = [{line}]\n\ncluster(__file__)\n",
        encoding="utf-8",
    )
    operator.edit("domains=[]", f'domains=["{project.name}.example.test"]', "group_data/all.py")
    checked = operator.tierstack("check", str(operator.inventory))
    asked = [text.strip() for text in checked.said.splitlines() if "sites[0]" in text]
    project.edit(source)
    for change in project.changes:
        operator.edit("domains=", f"{change}\n        domains=", "group_data/all.py")
    operator.lab("up", str(operator.inventory))
    return Somebody(operator, asked, operator.deploy())


@pytest.fixture(params=PROJECTS, ids=repr)
def project(request: pytest.FixtureRequest) -> Project:
    """One of the projects."""
    found: Project = request.param
    return found


def test_all_is_asked_for_at_once(
    project: Project, everybody: dict[str, Somebody], tmp_path: Path
) -> None:
    """`check` names each line that is missing, before any host is asked, in one list."""
    source = tmp_path / project.name
    project.make(source)
    asked = [f"sites[0].{_with_line_numbers(text, source)}" for text in project.asked]
    assert everybody[project.name].asked == asked


def _with_line_numbers(text: str, source: Path) -> str:
    """Put the number of a line in the place of how it begins, in braces."""
    found = re.search(r": (\S+), line \{(.*?)\}:", text)
    if not found:
        return text
    lines = (source / found[1]).read_text(encoding="utf-8").splitlines()
    number = next(n for n, line in enumerate(lines, 1) if line.startswith(found[2]))
    return text.replace(f"line {{{found[2]}}}:", f"line {number}:")


def test_one_deploy_brings_it_to_visitors(project: Project, everybody: dict[str, Somebody]) -> None:
    """Front page and admin are what they are; an upload of the site's is served."""
    somebody = everybody[project.name]
    assert somebody.deploy.status == 0, somebody.deploy.said[-6000:]
    door, operator = somebody.door, somebody.operator
    assert_sound(door.ask("/"), "the front page", HTML, project.front)
    admin = "/django-admin/" if project.name == "gallery" else "/admin/"
    manage = f"tierstack-manage {project.name}"
    operator.ask(
        project.name,
        f"DJANGO_SUPERUSER_PASSWORD={PASSWORD} {manage} createsuperuser --noinput"
        " --username editor --email editor@example.test",
    )
    browser = Browser(door)
    browser.log_in("editor", PASSWORD, admin)
    assert_sound(browser.get(admin), "the admin")
    with chromium(door) as shown:
        shown.open(f"{admin}login/?next={admin}")
        shown.fill(username="editor", password=PASSWORD)
        shown.click("[type=submit]")
        # Browsers ask for it by themselves, and few projects have one.
        assert [error for error in shown.errors() if "/favicon.ico" not in error] == []
    saved = operator.ask(
        project.name,
        f"{manage} shell -v 0 -c 'from django.core.files.base import ContentFile as F; from"
        " django.core.files.storage import default_storage as s; import sys;"
        ' print(s.save("dot.png", F(bytes.fromhex(sys.stdin.read()))))\'',
        given=PICTURE.hex(),
    )
    served = door.ask(f"/media/{saved.splitlines()[-1]}")
    assert (served.status, served.body, served["content-type"]) == (200, PICTURE, "image/png")


def test_second_run_changes_nothing(project: Project, everybody: dict[str, Somebody]) -> None:
    """Twice is the test of once."""
    assert_nothing_changed(everybody[project.name].operator.deploy())
