"""An inventory as it was read, and how mistakes in it are put into words."""

from __future__ import annotations

import difflib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from tierstack.model.errors import Mistake

_M = TypeVar("_M", bound=BaseModel)


@dataclass(frozen=True)
class RawInventory:
    """
    What the user wrote, read but not judged.

    Args:
        path: the inventory file, as messages should name it.
        file: the inventory file, absolute.
        home: the directory that holds `group_data/`.
        groups: group name to its hosts, each a name or a pair of name and data.
        group_data: group name to its settings, with the file that they come from.
        passed_on: keys that are pyinfra's own (`ssh_user`, `_sudo`, ...), accepted unread.
        mistakes: what was already found wrong while reading, e.g. a syntax error.
    """

    path: str
    file: Path
    home: Path
    groups: Mapping[str, Sequence[Any]]
    group_data: Mapping[str, Mapping[str, Any]]
    passed_on: Collection[str] = ()
    mistakes: Sequence[Mistake] = field(default_factory=tuple)


def nearest(key: str, known: Collection[str]) -> str:
    """Return what to write instead of an unknown key."""
    close = difflib.get_close_matches(key, sorted(known), n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]}?"
    return "known are " + ", ".join(sorted(known))


def validate(
    model: type[_M],
    data: Mapping[str, Any],
    where: str,
    mistakes: list[Mistake],
    extra_known: Collection[str] = (),
) -> _M | None:
    """Return one settings class filled in, or None after pydantic's findings were put into our words."""
    try:
        return model.model_validate(dict(data))
    except ValidationError as error:
        for found in error.errors():
            key = "".join(
                f"[{part}]" if isinstance(part, int) else f".{part}" for part in found["loc"]
            )
            known = set(model.model_fields) | set(extra_known)
            what = _in_our_words(dict(found), known, model)
            mistakes.append(Mistake(f"{where}{key}", what))
        return None


_TYPE_WORDS = {
    "int_type": "a whole number",
    "string_type": "a string",
    "bool_type": "True or False",
    "list_type": "a list",
    "dict_type": "a dict",
}


def _in_our_words(found: dict[str, Any], known: set[str], model: type[BaseModel]) -> str:
    kind, value, context = found["type"], found["input"], found.get("ctx", {})
    if kind == "extra_forbidden":
        return f"unknown; {nearest(str(found['loc'][-1]), known)}"
    if kind == "missing":
        description = model.model_fields[str(found["loc"][0])].description
        return f"missing; {description}"
    if kind in _TYPE_WORDS:
        return f"{value!r} is not {_TYPE_WORDS[kind]}; write {_as_meant(kind, value)}"
    if kind == "greater_than_equal":
        return f"{value!r} is too small; write at least {context['ge']}"
    if kind == "less_than_equal":
        return f"{value!r} is too large; write at most {context['le']}"
    if kind == "literal_error":
        return f"{value!r} is not known; write {context['expected']}"
    if kind == "too_short":
        return "is empty; write at least one"
    if kind == "value_error":
        return str(context["error"])
    if kind == "string_pattern_mismatch":
        field_info = model.model_fields[str(found["loc"][0])]
        return f"{value!r} does not fit; {field_info.description}"
    return f"{value!r}: {found['msg']}"


def _as_meant(kind: str, value: Any) -> str:
    """Return a value of another type as it should stand, or in words what should stand there."""
    if kind == "list_type" and isinstance(value, str):
        return json.dumps([value], ensure_ascii=False)
    if kind == "int_type" and isinstance(value, str) and value.strip().isdecimal():
        return str(int(value))
    if kind == "bool_type" and str(value).strip().capitalize() in ("True", "False"):
        return str(value).strip().capitalize()
    if kind == "string_type" and isinstance(value, (int, float)):
        return f'"{value}"'
    return _TYPE_WORDS[kind]
