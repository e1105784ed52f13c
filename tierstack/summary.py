"""How a run ends: with a summary on standard error, and with an exit status that tells."""

from __future__ import annotations

import atexit
import shlex
import signal
import sys
from typing import Any

import click
import gevent
import pyinfra_cli.cli
from pyinfra.api.host import Host
from pyinfra.api.operation import OperationMeta
from pyinfra.api.state import BaseStateCallback, State, StateStage
from pyinfra_cli.prints import pretty_op_name

from tierstack.connection import is_lost, login
from tierstack.model import Cluster
from tierstack.model.summary import Ending, HostRun, complete, last_words, summary
from tierstack.operations.gate import Refuse, gates

#: Options of pyinfra whose values are shown nowhere.
_HIDDEN = ("--data", "--ssh-password", "--password", "--ssh-key-password", "--key-password")

_SIGNALS = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}


class RunEnd(BaseStateCallback):
    """
    Watches a run of pyinfra, and says at its end what has become of each host.

    Args:
        cluster: the cluster that the run is for.
        state: the run, which need not be set up yet.
        inventory: its file, as it was typed; "" where there is to be no summary, as a command that
            is run by hand speaks for itself.
    """

    def __init__(self, cluster: Cluster, state: State, inventory: str) -> None:
        self._cluster = cluster
        self._state = state
        self._inventory = inventory
        self._begun: dict[Host, str] = {}
        self._stopped_by = ""
        # pyinfra's own handler ends with status 0, and is lost in a greenlet of paramiko's.
        for number in _SIGNALS:
            signal.signal(number, self._stop)
        if inventory:
            atexit.register(self._tell)
            _end_when_declined()

    def operation_host_start(self, state: State, host: Host, op_hash: str) -> None:  # type: ignore[override]
        """Note what a host is at work on."""
        self._begun[host] = op_hash

    def operation_host_error(  # type: ignore[override]
        self, state: State, host: Host, op_hash: str, retry_count: int = 0, max_retries: int = 0
    ) -> None:
        """Note a failure at once: pyinfra's exit status hangs on it, whatever comes in between."""
        if not state.ops[host][op_hash].global_arguments["_ignore_errors"]:
            state.failed_hosts.add(host)

    def _stop(self, number: int, frame: Any) -> None:
        """End the run in order: connections are closed, and with them the hosts' locks."""
        self._stopped_by = _SIGNALS[signal.Signals(number)]
        if self._state.initialised:
            # pyinfra leaves its hosts in the same pool, which is full of what they work on.
            self._state.pool.kill(block=False)
        main = gevent.get_hub().parent
        status = SystemExit(128 + number)
        if gevent.getcurrent() is main:
            raise status
        if main:
            gevent.kill(main, status)

    def _tell(self) -> None:
        state = self._state
        if not state.initialised or state.current_stage < StateStage.Execute:
            if self._stopped_by:
                click.echo(f"Stopped by {self._stopped_by}: no host was changed.", err=True)
            return
        connected = {host.name: host for host in state.activated_hosts}
        names = [host.name for host in self._cluster.hosts if host.name in connected]
        runs = [self._host_run(connected[name]) for name in names]
        good = complete(runs) and not self._stopped_by
        look = shlex.join(["tierstack", "status", self._inventory])
        head, *lines = summary(runs, _again(), look, self._stopped_by)
        click.secho(f"\n{head}", fg="green" if good else "red", err=True)
        for line in lines:
            click.echo(line, err=True)

    def _host_run(self, host: Host) -> HostRun:
        state = self._state
        done, left, changed = [], [], 0
        ending: Ending = "well"
        step = said = ""
        for key in state.get_op_order():
            if key not in state.ops[host]:
                continue
            name, meta = pretty_op_name(state.op_meta[key]), state.ops[host][key].operation_meta
            ignored = state.ops[host][key].global_arguments["_ignore_errors"]
            if meta.is_complete() and (meta.did_succeed() or ignored):
                if name not in gates:
                    done.append(name)
                    changed += meta.did_change()
            elif meta.is_complete():
                step = name
                ending, said = _failure(host, meta)
            elif self._begun.get(host) != key:
                if name not in gates:
                    left.append(name)
            elif not self._stopped_by:
                # Something else than a command has failed, and the run with it.
                step, ending, said = name, "failed", "see above"
            elif name not in gates:
                step, ending = name, "under way"
        if (left or step) and is_lost(host):
            ending, said = "lost", ""
        return HostRun(
            host.name, tuple(done), changed, ending, step, said, tuple(left), login(host)
        )


def _end_when_declined() -> None:
    """Have a run end with status 1 whose changes somebody declines; pyinfra ends it with 0."""
    ask = pyinfra_cli.cli._do_confirm

    def confirm(message: str) -> bool:
        try:
            if ask(message):
                return True
        except EOFError:
            click.echo("\n    Nobody answers; add -y", err=True)
        if message.startswith("Detected changes"):
            click.echo("Declined: no host was changed.", err=True)
            raise SystemExit(1)
        return False

    pyinfra_cli.cli._do_confirm = confirm


def _failure(host: Host, meta: OperationMeta) -> tuple[Ending, str]:
    """Return how an operation has failed on a host, and why, in a line."""
    ending: Ending = "failed"
    lines = meta.stderr_lines or meta.stdout_lines
    for command in meta._commands or []:
        # Commands of ours that are no shell commands, and what they have been told by others.
        if sentence := getattr(command, "sentence", ""):
            lines = [*getattr(command, "said", ()), f"tierstack: {sentence}"]
        if isinstance(command, Refuse) and command.left_out:
            ending = "left out"
    return ending, last_words(lines, host.name)


def _again() -> str:
    """Return the command that was typed, without what may be a secret in it."""
    words, hide = ["pyinfra"], False
    for word in sys.argv[1:]:
        option, equals, _ = word.partition("=")
        secret = bool(equals) and option in _HIDDEN
        words.append("…" if hide else f"{option}=…" if secret else word)
        hide = word in _HIDDEN
    return shlex.join(words)
