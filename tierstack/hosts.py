"""What a deploy reads from its hosts before it changes the first."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import gevent
from gevent.lock import RLock
from paramiko import SSHException
from pyinfra import inventory, state
from pyinfra.api.exceptions import PyinfraError
from pyinfra.api.facts import FactBase
from pyinfra.api.host import Host as PyinfraHost
from pyinfra.context import ctx_host, ctx_state

from tierstack.engine import Rehearsal, connector_arguments
from tierstack.inventory import checked_cluster
from tierstack.model import Cluster, Host, InventoryError, Mistake
from tierstack.model.identity import judge_secrets
from tierstack.model.media_home import MediaHomeError, MediaRoot, decide_home
from tierstack.model.preflight import clock_offset_s, judge, no_answer, noise, question
from tierstack.model.served import judge_sites, leaving_sites
from tierstack.model.sizing import check_capacity, planned_memory_mb
from tierstack.operations.remote import program
from tierstack.run_lock import lock_out_others
from tierstack.secrets import secrets_at_hand

#: Longest that a host may think about what it is asked, in seconds: a package source that does not
#: answer is waited for.
_ANSWER_S = 60

Packages = Callable[[Cluster, Host, bool], Sequence[str]]

#: Decides where MEDIA_ROOT of a site lies: as `decide_home`.
DecideHome = Callable[[Cluster, Mapping[str, MediaRoot], str, str], str]

_Asked = ParamSpec("_Asked")
_Answer = TypeVar("_Answer")

_facts: dict[str, dict[str, Any]] = {}


def facts(name: str) -> dict[str, Any]:
    """Return what `preflight_agent.py` said of a host, by name."""
    return _facts[name]


def all_facts() -> dict[str, dict[str, Any]]:
    """Return what `preflight_agent.py` said of all hosts that were asked, by name."""
    return _facts


def once_a_run(ask: Callable[_Asked, _Answer]) -> Callable[_Asked, _Answer]:
    """
    Have a function look once a run, whoever calls it first, and give all callers what it found.

    pyinfra runs a deploy file once for each host, all at the same time. A refusal, a PyinfraError,
    is raised for each of them: the first one ends the connections by which one could look again.
    """
    lock = RLock()
    found: list[_Answer | PyinfraError] = []

    @wraps(ask)
    def answer(*args: _Asked.args, **kwargs: _Asked.kwargs) -> _Answer:
        with lock:
            if not found:
                try:
                    found.append(ask(*args, **kwargs))
                except PyinfraError as error:
                    found.append(error)
        if isinstance(found[0], PyinfraError):
            raise found[0]
        return found[0]

    return answer


def ask_all(
    hosts: list[PyinfraHost], fact: type[FactBase[Any]], **arguments: Any
) -> dict[str, Any]:
    """
    Ask several hosts for a fact at once.

    Args:
        hosts: hosts of this run.
        fact: the fact.
        arguments: its arguments, and pyinfra's own such as `_stdin`.

    Returns:
        The fact by host name.
    """

    def ask(host: PyinfraHost) -> Any:
        with ctx_host.use(host):
            return host.get_fact(fact, **arguments)

    # Not in pyinfra's pool: this runs inside it, and would wait for itself.
    asked = {host.name: gevent.spawn(ask, host) for host in hosts}
    return {name: greenlet.get() for name, greenlet in asked.items()}


@once_a_run
def surveyed_cluster(
    packages: Packages | None = None,
    home: DecideHome = decide_home,
    *,
    with_secrets: bool = False,
) -> Cluster:
    """
    Return the cluster with what its hosts said of themselves; ask them once a run.

    Args:
        packages: returns the Debian packages that a host needs; True is for a container. None
            for a task that installs none.
        home: decides where MEDIA_ROOT lies, from what the hosts hold.
        with_secrets: whether the run gives the hosts secrets: these must be the cluster's own.

    Raises:
        PyinfraError: every finding in one message; no host was changed.
    """
    declared = checked_cluster()
    hosts = inventory.get_active_hosts()
    names = {host.name for host in hosts}
    asked = {}
    for connected in hosts:
        host = declared.host(connected.name)
        kinds = {
            "container": list(packages(declared, host, True)) if packages else [],
            "machine": list(packages(declared, host, False)) if packages else [],
        }
        stdin = program(
            "preflight_agent.py", question(declared, host, names, kinds), "other_firewall.py"
        )
        asked[host.name] = gevent.spawn(_ask, connected, stdin)
    answers = {name: greenlet.get() for name, greenlet in asked.items()}
    _facts.update({name: said for name, said in answers.items() if isinstance(said, dict)})
    surveyed = declared.with_memory(
        {name: _planned_mb(found) for name, found in _facts.items() if "memory_mb" in found}
    )
    start_empty, media_home = (
        str(hosts[0].data.get(name) or "") if hosts else ""
        for name in ("start_empty", "media_home")
    )
    shut = hosts[0].data.get("shut") == "yes" if hosts and packages else None
    mistakes = judge(declared, answers, start_empty, shut)
    # What an unsupported host says of its disks would not mean much.
    if not mistakes:
        surveyed, lost = _with_media_home(surveyed, home, media_home)
        mistakes += lost
        # Before any is made: a file that is missing must not become a new one.
        if with_secrets and hosts[0].data.get("new_secrets") != "yes":
            mistakes += judge_secrets(declared, secrets_at_hand(declared), _facts)
        if with_secrets:
            removed = filter(None, str(hosts[0].data.get("removed") or "").split(","))
            everyone = len(names) == len(declared.hosts)
            mistakes += judge_sites(declared, _facts, set(removed), everyone=everyone)
            surveyed = replace(surveyed, leaving=leaving_sites(declared, _facts))
    mistakes += check_capacity(surveyed)
    for host in surveyed.hosts:
        # A balancer sends each web node as much as it has memory for.
        needed = "web" in host.tiers and any(b.name in names for b in surveyed.tier("balancer"))
        if needed and host.memory_mb is None and host.name not in names:
            what = (
                "how much a balancer may send it is not known, as it has no part in this run;"
                " write memory_mb in its line, or deploy without --limit"
            )
            mistakes.append(Mistake(host.name, what))
    # Last, as a run that is refused anyway has no need of it, and would find its own lock on a host
    # that it has reached under two names.
    if not mistakes and not isinstance(ctx_state.get(), Rehearsal):
        mistakes += [Mistake(name, why) for name, why in lock_out_others(hosts).items()]
    if mistakes:
        shown = InventoryError(declared.inventory.name, mistakes).message()
        raise PyinfraError(shown.replace("no host was touched", "no host was changed"))
    return surveyed


def _planned_mb(said: Mapping[str, Any]) -> int:
    """Return the memory to plan a host with; one that was deployed before it noted any keeps it all."""
    has = said["memory_mb"]
    deployed = has if said["stamps"] else None
    return planned_memory_mb(has, said.get("note", {}).get("memory_mb", deployed))


def _with_media_home(
    cluster: Cluster, decide: DecideHome, chosen: str
) -> tuple[Cluster, list[Mistake]]:
    """Return the cluster with MEDIA_ROOT where the hosts say that it lies, or why it cannot be told."""
    homes: dict[str, str] = {}
    for site in cluster.sites:
        held = {name: MediaRoot(**said["media"][site.name]) for name, said in _facts.items()}
        try:
            homes[site.name] = decide(cluster, held, site.media_root, chosen)
        except MediaHomeError as error:
            return cluster, [Mistake(f"media of {site.name}", str(error))]
    if len(set(homes.values())) > 1:
        where = ", ".join(f"that of {site} on {home}" for site, home in homes.items())
        what = f"MEDIA_ROOT of all sites must lie on one host ({where}); move them together"
        return cluster, [Mistake("media", what)]
    return cluster.with_media_home(next(iter(homes.values()))), []


def _ask(host: PyinfraHost, stdin: str) -> dict[str, Any] | str:
    """
    Return what the agent says on a host, {} without python3, or in words why it says nothing.

    Not a fact of pyinfra's: a fact that fails stops the run at the first host, and its words, which
    are sudo's own where sudo does not work, are lost.
    """
    arguments = connector_arguments(host, _stdin=stdin, _timeout=_ANSWER_S)
    escalation = {
        "sudo": bool(arguments["_sudo"]),
        "password": bool(arguments["_sudo_password"]),
    }
    command = "command -v python3 >/dev/null && exec python3 - || echo '{}'"
    before = time.time()
    try:
        with ctx_host.use(host):
            good, output = host.run_shell_command(command, **arguments)
    except TimeoutError:
        return (
            f"does not answer within {_ANSWER_S} s; look what it does, e.g. by: ssh {host.name} top"
        )
    except (OSError, SSHException) as error:
        return f"has broken the connection off ({error}); look whether it is up, and deploy again"
    except EOFError:  # pyinfra has asked for sudo's password, and nobody is there to type it.
        return no_answer("", **escalation)
    except PyinfraError as error:
        return no_answer(str(error), **escalation)
    if not good:
        return no_answer(output.stderr, **escalation)
    if what := noise(output.stdout_lines):
        return what
    found: dict[str, Any] = json.loads(output.stdout_lines[-1])
    if found:
        began, ended = found["clock"]
        found["clock_offset_s"] = clock_offset_s((began, ended), (before, time.time()))
    return found


def in_this_run(name: str) -> bool:
    """Return whether a host takes part in this run (`--limit` leaves hosts out)."""
    return any(host.name == name for host in state.activated_hosts)


def whole_run(cluster: Cluster) -> bool:
    """Return whether every host of the inventory takes part: only then may anything be closed."""
    return all(in_this_run(host.name) for host in cluster.hosts)
