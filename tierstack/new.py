"""A directory of the user's own: an inventory, group data and what belongs beside them."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tierstack.inventory import CHECKOUT
from tierstack.model import TierstackError
from tierstack.model.settings_text import DEVELOPMENT, PRODUCTION, module_file, named_module
from tierstack.model.shell import quoted

#: The inventory that new directories start from. One text for the checkout and for them.
TEMPLATE = CHECKOUT / "inventories" / "prod.py"

_GITIGNORE = """\
*.secrets.toml
.*.secrets.toml.*
*.pem
*.key
__pycache__/
"""

_README = """\
# A cluster, made by Tierstack

1. Name your hosts in `prod.py`, and your site in `group_data/all.py`.
2. In the checkout of Tierstack, with its virtual environment active, see what is still missing:
   `tierstack check {inventory}`
3. Say that you trust your hosts' SSH keys: `tierstack trust {inventory}`
4. Deploy, after this and every later change: `pyinfra {inventory} deploy.py`
5. Look: `tierstack status {inventory}`

The first deploy makes passwords and keys in `prod.secrets.toml`: keep a copy in a safe place, never in git.
A certificate with its key may lie here too; `docs/first-day.md` of Tierstack tells the rest.
"""

_GROUP_DATA = '''\
"""What holds for every host, and the sites; docs/settings.md of Tierstack has every setting.

`tierstack check` names each empty value below.
"""

sites = [
    dict(
        # Account, database and directories are called so: small letters, digits and hyphens.
        name={name},
        # Your Django project; it needs no change and no line of Tierstack.
        source={source},
{more}        # The settings module for production{why}.
        settings={settings},
        # What visitors type, e.g. ["www.example.com", "example.com"].
        domains=[],
    ),
]
'''


@dataclass(frozen=True)
class Project:
    """
    What a Django project says of itself; an empty string is what it does not say.

    Args:
        source: its directory.
        project: where `manage.py` lies in it.
        settings: the settings module for visitors.
        why: in words, why that one.
        requirements: its requirements file, relative to `source`.
    """

    source: Path
    project: str
    settings: str
    why: str
    requirements: str

    @property
    def name(self) -> str:
        """A site's name made from the directory's."""
        name = re.sub(r"[^a-z0-9]+", "-", self.source.name.lower())
        return name.lstrip("-0123456789")[:24].rstrip("-")


def make(directory: Path, source: Path | None) -> list[Path]:
    """
    Write the files of a user's own directory.

    Args:
        directory: made if it is not there; other files in it are left alone.
        source: the Django project to serve; None leaves its lines empty.

    Returns:
        The files written, the inventory first.

    Raises:
        TierstackError: a file is there already, the project is none, or the directory lies in it;
            nothing was written.
    """
    directory = directory.absolute()
    project = find_project(source) if source else None
    if project and directory.resolve().is_relative_to(project.source):
        raise TierstackError(
            f"{directory} lies in {project.source}, and all of that goes to every web host;"
            " choose a directory outside of it"
        )
    inventory = directory / "prod.py"
    shown = _shown(inventory)
    texts = {
        inventory: TEMPLATE.read_text(encoding="utf-8").replace(
            "inventories/prod.py", quoted(shown)
        ),
        directory / "group_data" / "all.py": _group_data(project),
        directory / ".gitignore": _GITIGNORE,
        directory / "README.md": _README.format(inventory=quoted(shown)),
    }
    there = [str(file) for file in texts if file.exists() or file.is_symlink()]
    if there:
        raise TierstackError(
            f"{', '.join(there)}: already there, nothing was written; choose another directory"
        )
    try:
        for file, text in texts.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("x", encoding="utf-8") as out:
                out.write(text)
    except OSError as error:
        raise TierstackError(
            f"{error.filename} cannot be written: {error.strerror}; choose another directory"
        ) from None
    return list(texts)


def find_project(source: Path) -> Project:
    """
    Read what a Django project says of itself.

    Args:
        source: a directory with `manage.py` in it, or in a folder of it.

    Raises:
        TierstackError: there is no `manage.py`, or more than one.
    """
    source = source.expanduser().resolve()
    found = [source / "manage.py"]
    if not found[0].is_file():
        found = sorted(source.glob("*/manage.py"))
    if not found:
        raise TierstackError(
            f"{source}: no manage.py there or in a folder of it; write --source and the directory"
            " of your Django project"
        )
    if len(found) > 1:
        raise TierstackError(
            f"{source} holds {len(found)} projects; write one of them, e.g."
            f" --source {found[0].parent}"
        )
    project = found[0].parent
    settings, why = _choose_settings(found[0])
    candidates = [
        folder / name
        for folder in dict.fromkeys((source, project))
        for name in ("requirements.txt", "requirements/production.txt", "requirements/prod.txt")
    ]
    requirements = next((file for file in candidates if file.is_file()), None)
    return Project(
        source=source,
        project=str(project.relative_to(source)),
        settings=settings,
        why=why,
        requirements=str(requirements.relative_to(source)) if requirements else "",
    )


def _choose_settings(manage: Path) -> tuple[str, str]:
    """
    Return the settings module for visitors, and in words why that one; "" where nothing tells.

    What wsgi.py names comes first, then manage.py; where that is a module for development and one
    for production lies beside it, the latter.
    """
    project = manage.parent
    asked = [*sorted(project.glob("*/wsgi.py")), *sorted(project.glob("wsgi.py")), manage]
    named = [(named_module(file), str(file.relative_to(project))) for file in asked]
    named = [(module, file) for module, file in named if module]
    if not named:
        return "", ""
    module, file = named[0]
    why, first = f"{file} names it", 0
    package, _, last = module.rpartition(".")
    if last in DEVELOPMENT or last == "base":
        beside = (f"{package}.{name}" if package else name for name in PRODUCTION)
        if found := next((name for name in beside if module_file([project], name)), ""):
            module, why, first = found, f"it lies beside {module}, which {file} names", 1
    others = [f"{file} names {other}" for other, file in named if other != module]
    return module, "; ".join([why, *others[first:]])


def _group_data(project: Project | None) -> str:
    more = ""
    if project and project.project != ".":
        more += (
            f"        # Where manage.py lies in it.\n        project={_quoted(project.project)},\n"
        )
    if project and project.requirements != "requirements.txt":
        more += (
            f"        # What pip installs.\n        requirements={_quoted(project.requirements)},\n"
        )
    return _GROUP_DATA.format(
        name=_quoted(project.name if project else ""),
        source=_quoted(str(project.source) if project else ""),
        more=more,
        settings=_quoted(project.settings if project else ""),
        why=f": {project.why}" if project and project.why else "",
    )


def _quoted(text: str) -> str:
    """Return a Python string in double quotes."""
    return json.dumps(text, ensure_ascii=False)


def _shown(path: Path) -> str:
    """Return a path as a user would type it."""
    with suppress(ValueError):
        return f"~/{path.relative_to(Path.home())}"
    return str(path)
