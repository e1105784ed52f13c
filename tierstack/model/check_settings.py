"""The settings of an inventory: group data merged in order, then validated tier by tier."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tierstack.model.errors import Mistake
from tierstack.model.raw import RawInventory, nearest, validate
from tierstack.model.settings import TIER_SETTINGS, Settings, SiteSettings


def check_settings(raw: RawInventory, mistakes: list[Mistake]) -> Settings | None:
    """
    Merge group data into settings.

    Later wins: `all.py`, then the tier's own file, then the file named after the inventory. A tier's
    file sets that tier and no other, so two of them never set the same.
    """
    merged: dict[str, dict[str, Any]] = {tier: {} for tier in TIER_SETTINGS}
    sites: Any = None
    top_known = {"sites", *TIER_SETTINGS}
    for group, data in raw.group_data.items():
        for key, value in data.items():
            if key in raw.passed_on:
                continue
            if group in TIER_SETTINGS and key in top_known:
                what = f"is not of this tier; write it in group_data/{_file_of(key)}"
                mistakes.append(Mistake(f"group_data/{group}.py: {key}", what))
            elif group in TIER_SETTINGS:
                merged[group][key] = value
            elif key == "sites":
                sites = value
            elif key in TIER_SETTINGS:
                if isinstance(value, Mapping):
                    merged[key] |= value
                else:
                    mistakes.append(
                        Mistake(key, f"{value!r} is not a dict; write e.g. {key} = dict(port=8080)")
                    )
            else:
                mistakes.append(
                    Mistake(f"group_data/{group}.py: {key}", f"unknown; {nearest(key, top_known)}")
                )
    parts: dict[str, Any] = {}
    before = len(mistakes)
    for tier, model in TIER_SETTINGS.items():
        parts[tier] = validate(model, merged[tier], tier, mistakes)
    parts["sites"] = _site_settings(sites, mistakes)
    if len(mistakes) > before:
        return None
    return Settings.model_construct(**parts)


def readable_sites(raw: RawInventory) -> dict[int, SiteSettings]:
    """
    Return the sites, by their place in `sites`, as far as their lines are right.

    For settings that are refused: what is wrong with the project itself comes in the same list.
    """
    sites: Any = None
    for data in raw.group_data.values():
        sites = data.get("sites", sites)
    found = {}
    for index, value in enumerate(sites if isinstance(sites, list) else ()):
        if not isinstance(value, Mapping):
            continue
        wrong: list[Mistake] = []
        validate(SiteSettings, dict(value), "", wrong)
        keys = {mistake.where.lstrip(".").partition("[")[0] for mistake in wrong}
        right = {key: item for key, item in value.items() if key not in keys}
        # Neither says anything of the project.
        right = {"name": "site", "domains": ["www.example.com"], **right}
        site = validate(SiteSettings, right, "", [])
        if site is not None:
            found[index] = site
    return found


def _file_of(key: str) -> str:
    return "all.py" if key == "sites" else f"{key}.py"


def _site_settings(sites: Any, mistakes: list[Mistake]) -> list[SiteSettings]:
    example = (
        'sites = [dict(name="mysite", source="mysite", settings="mysite.settings",'
        ' domains=["www.example.com"])]'
    )
    if not sites:
        mistakes.append(Mistake("sites", f"no site; write in group_data/all.py: {example}"))
        return []
    if not isinstance(sites, list):
        mistakes.append(Mistake("sites", f"{sites!r} is not a list; write {example}"))
        return []
    found = []
    for index, value in enumerate(sites):
        if not isinstance(value, Mapping):
            mistakes.append(Mistake(f"sites[{index}]", f"{value!r} is not a dict; write {example}"))
            continue
        site = validate(SiteSettings, dict(value), f"sites[{index}]", mistakes)
        if site is not None:
            found.append(site)
    return found
