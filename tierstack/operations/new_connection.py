"""A command over a connection of its own.

Reason: a run's own connection stays open whatever a firewall does; only a new one shows whether
the next run will get in.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from pyinfra import logger
from pyinfra.api.command import PyinfraCommand, StringCommand
from pyinfra.api.exceptions import ConnectError
from pyinfra.api.operation import operation

from tierstack.model.plan import Effect


class _OverNewConnection(PyinfraCommand):
    """A shell command that is run over a connection made for it, or a sentence when none is let in."""

    def __init__(self, command: str, refused: str) -> None:
        super().__init__()
        self.command = command
        self.refused = refused
        #: Why it has failed.
        self.sentence = ""
        #: For `tierstack plan`: what the command keeps has been told by who has made it.
        self.effect = Effect()

    def __repr__(self) -> str:
        return f"OverNewConnection({self.command!r})"

    def execute(self, state: Any, host: Any, connector_arguments: Any) -> bool:
        """Connect again as this run did, run the command, and leave."""
        connector = type(host.connector)(state, host)
        try:
            connector.connect()
            good, said = connector.run_shell_command(
                StringCommand(self.command), **connector_arguments
            )
        except ConnectError as error:
            self.sentence = f"{host.name}: {self.refused} ({error})"
            logger.error(f"{host.print_prefix}{self.sentence}")
            return False
        finally:
            if client := getattr(connector, "client", None):
                client.close()
        if not good:
            logger.error(f"{host.print_prefix}{said.output}")
        return bool(good)


@operation()
def over_new_connection(command: str, refused: str) -> Generator[PyinfraCommand, None, None]:
    """
    Run a shell command over a new connection to the host.

    Args:
        command: what to run there.
        refused: what it means when no new connection is let in.
    """
    yield _OverNewConnection(command, refused)
