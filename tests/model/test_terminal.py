"""What a host says reaches the operator's terminal as text."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from tests.model.conftest import Home, pyinfra
from tierstack import status
from tierstack.cli import main
from tierstack.terminal import printable

#: Clears, names the window, copies into the clipboard, hides, goes up, turns letters round, rings.
EVIL = (
    "\x1b[2J",
    "\x1b]0;owned\x07",
    "\x1b]52;c;cm0gLXJm\x07",
    "\x1b[8mhidden",
    "\x1b[30m",
    "\x1b[31;8m",
    "\x1b[38;5;0m",
    "\x1b[1A",
    "\x9b2J",
    "good\rbad",
    "\u202eevil",
    "\x07",
    "\x1bc",
    "\x7f\x08",
)


@pytest.mark.parametrize("evil", EVIL)
def test_what_a_terminal_would_obey_is_marked(evil: str) -> None:
    """Neither alone nor within a line is any of it left."""
    for text in (evil, f"a{evil}b\n", f"{evil}\n{evil}"):
        shown = printable(text)
        assert "\N{REPLACEMENT CHARACTER}" in shown
        assert not {*"\x1b\x9b\r\u202e\x07\x7f\x08"} & {*shown}, repr(shown)


@pytest.mark.parametrize(
    "text",
    [
        "Größe …\tof a line\r\n",
        "\x1b[31mred\x1b[0m \x1b[1;32mgreen\x1b[0m\n",
        "\x1b[39m",
        "    | 50% (1/2) web1\r",
        "\x1b[K",
        "\x1b[1A      \x1b[1A\n",
    ],
)
def test_colors_and_pyinfras_progress_stay(text: str) -> None:
    """Letters, tabs, line ends; and what pyinfra, click and rich write of their own."""
    assert printable(text) == text


def test_status_obeys_no_host(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does it take a host's brackets for colors or links, or end with a traceback at them."""
    said = f"cannot{''.join(EVIL)}[link=http://evil.test]look[/link] [/nothing]"
    node = status.Node("web", "web1", "does not answer", notes=said, good=False)
    monkeypatch.setattr(status, "survey", lambda cluster: [node])
    monkeypatch.setenv("COLUMNS", "999")
    done = CliRunner().invoke(main, ["status", str(home.path / "prod.py")], color=True)
    assert done.exit_code == 1, done.exception
    text = "".join(done.output.split())
    assert "[link=http://evil.test]look[/link][/nothing]" in text
    assert not {*"\x9b\u202e\x07\x7f\x08"} & {*done.output}
    assert "\x1b]" not in done.output


@pytest.mark.parametrize("where", ["stdout", "stderr"])
def test_run_obeys_no_host(home: Home, where: str) -> None:
    """From the inventory on, before the first connection, whoever prints."""
    file = home.path / "prod.py"
    prints = f"import sys\nprint({EVIL[1]!r}, file=sys.{where})\n"
    file.write_text(file.read_text(encoding="utf-8") + prints, encoding="utf-8")
    done = pyinfra(file, "deploy.py", "-y", "--serial")
    assert "]0;owned" in getattr(done, where), done.stderr
    assert "\x1b]" not in done.stdout + done.stderr
