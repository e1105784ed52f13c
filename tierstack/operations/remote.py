"""Programs of ours that run on hosts: sent over standard input, with one request.

Reason: pyinfra's commands carry what they say in an argument list, which every account of a host may
read; and one program with one request costs one SSH execution, however much it looks at or changes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

import gevent
from paramiko import SSHException
from pyinfra import inventory
from pyinfra.api.exceptions import PyinfraError
from pyinfra.api.facts import FactBase
from pyinfra.context import ctx_host

from tierstack.connection import is_lost
from tierstack.engine import connector_arguments
from tierstack.model.errors import TierstackError
from tierstack.model.plan import Effect
from tierstack.operations.foreseen import Foreseen

_COMMAND = "python3 -c 'import sys; exec(sys.stdin.read())'"


def program(file: str, request: dict[str, Any], *parts: str) -> str:
    """
    Return the standard input that has a host run a program.

    Args:
        file: a file beside this one; its `main(request)` returns the exit status, or None for 0.
        request: what it is asked, as JSON can say it.
        parts: files beside this one whose functions it calls.
    """
    source = "\n".join(source_of(part) for part in (*parts, file))
    return f"{source}\nsys.exit(main(json.loads({json.dumps(request)!r})))\n"


def run(file: str, request: dict[str, Any], effect: Effect) -> Foreseen:
    """Return the command that has a host run a program; arguments as of `program`, and what it does."""
    return Foreseen(_COMMAND, effect=effect, _stdin=program(file, request))


#: Said of a host whose connection was given up: what ran there ended without a word.
_GONE = "it does not answer any more"


class HostError(TierstackError):
    """A host has not done what it was told; in its own words."""


def tell(name: str, command: str, stdin: str = "", patience_s: int | None = 120) -> str:
    """
    Have any host of the run do something at once, from inside of an operation, and return what it prints.

    Args:
        name: the host's name.
        command: for its shell, with sudo as its line in the inventory says.
        stdin: what the command reads; secrets go this way.
        patience_s: how long it may be silent, in seconds; None for as long as it likes.

    Raises:
        HostError: it did not answer, or the command failed.
    """
    host = inventory.get_host(name)
    arguments = connector_arguments(host, _stdin=stdin or None, _timeout=patience_s)
    try:
        with ctx_host.use(host):
            good, output = host.run_shell_command(command, **arguments)
    except (OSError, EOFError, SSHException, PyinfraError) as error:
        # A connection that ends says little, and pyinfra of its time-out nothing.
        why = _GONE if is_lost(host) else str(error) or f"no answer within {patience_s} s"
        raise HostError(f"{name}: {why}") from None
    if not good and is_lost(host):
        raise HostError(f"{name}: {_GONE}")
    if not good:
        raise HostError(f"{name}: {output.stderr.strip() or output.stdout.strip() or command}")
    said: str = output.stdout
    return said


def tell_program(
    name: str, file: str, request: dict[str, Any], patience_s: int | None = 120
) -> str:
    """Have a host run a program of ours; arguments as of `program` and `tell`."""
    return tell(name, _COMMAND, program(file, request), patience_s)


def at_once(calls: Iterable[Callable[[], object]]) -> None:
    """
    Tell several hosts something at once, each by a call of `tell` or `tell_program`.

    Raises:
        HostError: of all that failed, once all have ended.
    """

    def sentence(call: Callable[[], object]) -> str:
        # Caught here: of what ends a greenlet, gevent prints a traceback.
        try:
            call()
        except HostError as error:
            return str(error)
        return ""

    told = [gevent.spawn(sentence, call) for call in calls]
    if failed := [said for greenlet in told if (said := greenlet.get())]:
        raise HostError("; ".join(failed))


@cache
def source_of(file: str) -> str:
    """Return the text of a program of ours that runs on hosts, by its name in this directory."""
    return (Path(__file__).parent / file).read_text(encoding="utf-8")


class RemoteFact(FactBase[dict[str, Any]]):
    """What a program prints, one JSON object in its last line; pass `_stdin=program(…)`."""

    def command(self) -> str:
        return _COMMAND

    def process(self, output: list[str]) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(output[-1])
        return found
