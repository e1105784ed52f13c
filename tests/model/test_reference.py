"""The settings page says what the settings are."""

from __future__ import annotations

from pathlib import Path

from tierstack.model.reference import markdown


def test_settings_page_is_current() -> None:
    """docs/settings.md is what the model generates today."""
    page = Path(__file__).parents[2] / "docs" / "settings.md"
    assert page.read_text(encoding="utf-8") == markdown()
