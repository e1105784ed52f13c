"""A picture of a lab's front page, as `make demo` ends with; nothing where there is no Chromium."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.chromium import flags
from tests.operator import Operator

_TIMEOUT_S = 60


def main(inventory: Path, picture: Path) -> str:
    """
    Write a picture of the site that an inventory's lab serves.

    Returns:
        What to say of it; "" where this machine has no Chromium.
    """
    program = shutil.which("chromium")
    if program is None:
        return ""
    door = Operator.at(inventory.resolve()).door
    picture.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [
            program, *flags(door, Path(profile)), "--window-size=1200,900",
            f"--screenshot={picture.resolve()}", f"https://{door.domain}/",
        ]  # fmt: skip
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired:
            return f"No picture of the site: Chromium was not done within {_TIMEOUT_S} s"
    if not picture.exists():
        said = (done.stderr.strip().splitlines() or [f"it ended with status {done.returncode}"])[-1]
        return f"No picture of the site, since Chromium failed: {said}"
    return f"The site, as a browser shows it: {picture}"


if __name__ == "__main__":
    if told := main(Path(sys.argv[1]), Path(sys.argv[2])):
        print(told)
