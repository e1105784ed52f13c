"""`docs/settings.md`, made from the settings themselves: python -m tierstack.model.reference"""

from __future__ import annotations

import sys
import types
from typing import Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from tierstack.model.settings import TIER_SETTINGS, HostSettings, SiteSettings

_INTRO = """\
# Settings

<!-- Generated: python -m tierstack.model.reference > docs/settings.md -->

A setting of a tier is a plain name in the file of that tier, `group_data/web.py`:

    timeout_s = 30

`group_data/all.py` holds the list `sites`, and may set a tier's settings as `web = dict(timeout_s=30)`.
A file named after the inventory, e.g. `group_data/prod.py` for `prod.py`, does the same for that inventory only.
Where several files set the same key, the later wins: `all.py`, then the tier's file, then the inventory's.
A tier's file sets that tier and no other, so the files of two tiers never disagree.
An unknown key is refused.
Only the `group_data/` beside the inventory counts; that of the checkout is for the checkout's own inventories.

pyinfra's own keys (`ssh_user`, `ssh_key`, `ssh_port`, `_sudo`, …) may stand in the same files, and in a host's line, which wins over them.
A host that stands in several groups may not be told two things: lines that disagree are refused by name, and so are the files of two tiers that give one host different values of such a key.
"""


def markdown() -> str:
    """Return the whole page."""
    parts = [_INTRO]
    parts.append(_section("A host's line in the inventory", HostSettings))
    parts.append(_section("`sites`", SiteSettings))
    parts += [_section(f"`{tier}`", model) for tier, model in TIER_SETTINGS.items()]
    return "\n".join(parts)


def _section(title: str, model: type[BaseModel]) -> str:
    doc = " ".join((model.__doc__ or "").split())
    rows = "".join(
        f"| `{name}` | {_type(field.annotation)} | {_default(field)} | {field.description} |\n"
        for name, field in model.model_fields.items()
    )
    return f"## {title}\n\n{doc}\n\n| key | type | default | meaning |\n|---|---|---|---|\n{rows}"


def _type(annotation: object) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " or ".join(f'`"{value}"`' for value in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(_type(part) for part in arguments if part is not type(None))
    if hasattr(annotation, "__metadata__"):
        return _type(arguments[0])
    if origin is list:
        return f"list of {_type(arguments[0])}"
    if origin is dict:
        return "dict of strings"
    names = {int: "number", str: "string", bool: "`True` or `False`"}
    return names.get(annotation, str(annotation))  # type: ignore[call-overload, no-any-return]


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    return "–" if value is None or value in ([], {}) else f"`{value!r}`"


if __name__ == "__main__":
    sys.stdout.write(markdown())
