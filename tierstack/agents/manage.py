"""Runs in a site's own Django, never imported on the controller: a management command of the site.

    python tierstack_manage.py COMMAND [ARGUMENT ...]     in the directory of manage.py

The site's manage.py is run for what it prepares, such as sys.path. Whatever it makes of the
variable DJANGO_SETTINGS_MODULE, which many assign, or of the arguments, in which some look for the
name of an environment, the command is the one that was asked for, with the settings that the site
runs with on this host. Where manage.py does not come so far, the command runs without it.

Source: Django documentation, "django-admin and manage.py".
"""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path
from typing import Any

VARIABLE, SETTINGS = "DJANGO_SETTINGS_MODULE", "tierstack_settings"

_WITHOUT = "from django.core.management import execute_from_command_line as run; run()"


def main(arguments: list[str]) -> None:
    """
    Run one management command; its own exit ends the process.

    Args:
        arguments: the command and its arguments.
    """
    from django.conf import settings
    from django.core.management import ManagementUtility

    environment = {**os.environ, VARIABLE: SETTINGS}
    execute = ManagementUtility.execute
    begun = False

    def execute_asked(utility: Any) -> Any:
        nonlocal begun
        # Commands may run others, by the same way.
        ManagementUtility.execute = execute
        if settings.configured and settings.SETTINGS_MODULE != SETTINGS:
            _alone(arguments, environment)  # manage.py has read others.
        begun = True
        os.environ[VARIABLE] = SETTINGS
        utility.argv = ["manage.py", *arguments]
        return execute(utility)

    ManagementUtility.execute = execute_asked
    program = Path("manage.py").absolute()
    sys.argv = ["manage.py", *arguments]
    sys.path.insert(0, str(program.parent))
    try:
        runpy.run_path(str(program), run_name="__main__")
    # Many end by SystemExit where the first argument is no environment of theirs.
    except BaseException:
        if begun:
            raise
    if not begun:
        _alone(arguments, environment)


def _alone(arguments: list[str], environment: dict[str, str]) -> None:
    """Go on as a new program that runs the command without manage.py."""
    command = [sys.executable, "-c", _WITHOUT, *arguments]
    os.execve(sys.executable, command, environment)


if __name__ == "__main__":
    main(sys.argv[1:])
