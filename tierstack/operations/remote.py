"""Programs of ours that run on hosts: sent over standard input, with one request.

Reason: pyinfra's commands carry what they say in an argument list, which every account of a host may
read; and one program with one request costs one SSH execution, however much it looks at or changes.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from pyinfra.api.facts import FactBase

from tierstack.model.plan import Effect
from tierstack.operations.foreseen import Foreseen

_COMMAND = "python3 -c 'import sys; exec(sys.stdin.read())'"


def program(file: str, request: dict[str, Any]) -> str:
    """
    Return the standard input that has a host run a program.

    Args:
        file: a file beside this one; its `main(request)` returns the exit status, or None for 0.
        request: what it is asked, as JSON can say it.
    """
    return f"{_source(file)}\nsys.exit(main(json.loads({json.dumps(request)!r})))\n"


def run(file: str, request: dict[str, Any], effect: Effect) -> Foreseen:
    """Return the command that has a host run a program; arguments as of `program`, and what it does."""
    return Foreseen(_COMMAND, effect=effect, _stdin=program(file, request))


@cache
def _source(file: str) -> str:
    return (Path(__file__).parent / file).read_text(encoding="utf-8")


class RemoteFact(FactBase[dict[str, Any]]):
    """What a program prints, one JSON object in its last line; pass `_stdin=program(…)`."""

    def command(self) -> str:
        return _COMMAND

    def process(self, output: list[str]) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(output[-1])
        return found
