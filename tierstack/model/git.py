"""What git says of a directory, without running anything that its tree names."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from tierstack.model.errors import TierstackError
from tierstack.model.shell import quoted

#: Which repository git looks at, whatever directory it is given: so its hooks are started.
_OF_HOOKS = frozenset({
    "GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_COMMON_DIR",
    "GIT_OBJECT_DIRECTORY", "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_NAMESPACE",
})  # fmt: skip


def git_names(directory: Path, *arguments: str) -> list[str]:
    """
    Return the names that git prints; nothing outside of a work tree.

    Only in the user's own tree, which is git's rule, does git do what the tree's configuration says;
    and no program of it is asked which files have changed.

    Raises:
        TierstackError: git refuses, or is not there.
    """
    command = ["git", "-c", "core.fsmonitor=false", "-c", f"core.hooksPath={os.devnull}"]
    command += ["-C", str(directory), *arguments]
    own = {name: value for name, value in os.environ.items() if name not in _OF_HOOKS}
    environment = {**own, "LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0"}
    try:
        done = subprocess.run(command, capture_output=True, check=False, env=environment)
    except FileNotFoundError:
        if any((folder / ".git").exists() for folder in (directory, *directory.parents)):
            raise TierstackError(
                f"{directory} is in a git work tree, and git, which says what belongs to a release,"
                " is not installed here; install it"
            ) from None
        return []
    if done.returncode == 0:
        return [name for name in os.fsdecode(done.stdout).split("\0") if name]
    said = os.fsdecode(done.stderr).strip()
    if "not a git repository" in said:
        return []
    if found := re.search(r"dubious ownership in repository at '(.+)'", said):
        raise TierstackError(
            f"{found[1]} belongs to another account, and git would run what that account's"
            " configuration names; if that is you, type: git config --global --add safe.directory"
            f" {quoted(found[1])}"
        )
    raise TierstackError(
        f"git does not say what belongs to {directory} ({said.splitlines()[-1] if said else 'git'});"
        " mend that"
    )
