"""How a run has ended, host by host: its last words, for somebody who has a bad night."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tierstack.model.plan import count, listed

#: How a host's last step has ended: well, or it failed, or was under way when the run stopped, or
#: was not taken because another host failed, or the connection was lost in it.
Ending = Literal["well", "failed", "under way", "left out", "lost"]

#: So many names of steps that were not begun are listed.
_LISTED = 3

#: So much of another program's line is shown, in characters.
_LONG = 300

#: What other programs say of why they failed, the most telling first: C compilers, Apache, HAProxy, apt
#: and dpkg, PostgreSQL, Django's checks; then whatever calls itself an error.
_TELLING = tuple(
    re.compile(pattern)
    for pattern in (
        r"\bfatal error: ",
        r"^AH\d+: Syntax error on line|^\[(ALERT|emerg)\]|^E: |^dpkg: error|\b(FATAL|PANIC): ",
        r": \(\w+\.E\d+\) ",
        r"(?i)\berr(or)?\b",
    )
)

#: What only says that something has failed, or where to look.
_EMPTY = re.compile(
    r"(?i)^(Job for \S+ failed|See .*systemctl status|.*: (Main|Control) process exited|.*: Failed with"
    r" result|Failed to start |Start(ing|ed) |Stopp(ing|ed) |.*: (Scheduled restart|Start request"
    r" repeated)|Action '\w+' failed|The Apache error log may|Errors were encountered"
    r"|E: Sub-process |E: Some index files|.*(Fatal errors|Error\(s\)) found in configuration"
    r"|ERRORS:$|error: subprocess-exited|note: |.*issues?:$|System check identified|Type '.*' for usage)"
)

#: A sentence of ours that leaves the reason to what stands above it.
_ABOVE = re.compile(r" (?:says|said|listed) above(?=[;,.]|$)")


@dataclass(frozen=True)
class HostRun:
    """
    What a run has done to one host. A step is an operation that may change something.

    Args:
        name: the host's name.
        done: steps that have ended well, in order.
        changed: how many of them have changed something.
        ending: how the last step that was begun has ended.
        step: its name, unless it has ended well; "" where the connection was lost between two.
        said: the last line that it said.
        left: steps that were not begun, in order.
        login: what reaches the host by hand, e.g. "ssh root@10.0.0.12".
    """

    name: str
    done: tuple[str, ...] = ()
    changed: int = 0
    ending: Ending = "well"
    step: str = ""
    said: str = ""
    left: tuple[str, ...] = ()
    login: str = ""


def summary(hosts: Sequence[HostRun], again: str, look: str, stopped_by: str = "") -> list[str]:
    """
    Return how a run has ended, in lines: one where it did everything.

    Args:
        hosts: every host of the run, in the inventory's order.
        again: the command that does what is missing, e.g. "pyinfra prod.py deploy.py -y".
        look: the command that tells how the nodes are.
        stopped_by: what stopped the run, if it was no host: "Ctrl-C".
    """
    if complete(hosts) and not stopped_by:
        changed = sum(bool(host.changed) for host in hosts)
        return [f"All is done: {count(len(hosts), 'host')}, {changed or 'none'} changed."]
    lines = [f"The run stopped half-way{_why(hosts, stopped_by)}. Host by host:"]
    # Hosts that tell the same share a line; those that need somebody come first.
    told: dict[tuple[str, ...], list[str]] = {}
    for host in sorted(hosts, key=lambda host: _ORDER.index(host.ending)):
        told.setdefault(tuple(_tell(host)), []).append(host.name)
    for (first, *more), names in told.items():
        lines += [f"  {', '.join(names)}: {first}", *(f"    {line}" for line in more)]
    lines.append(f"{_before_again(hosts)}, each run does what is missing: {again}")
    lines.append(f"How the nodes are now: {look}")
    return lines


def last_words(lines: Sequence[str], host: str) -> str:
    """
    Return what a summary shows of what a host has said as it failed: why, in one line.

    That is the last line, which our own programs end with. Where it leaves the reason to what another
    program says above, that program's decisive line stands in it, in brackets.

    Args:
        lines: all that was said.
        host: the host's name, which stands before the line anyway.
    """
    lines = [part.rstrip() for line in lines for part in line.splitlines() if part.strip()]
    if not lines:
        return "see above"
    *above, sentence = lines
    own = sentence.startswith("tierstack: ")
    sentence = (sentence if own else _decisive(lines)).removeprefix("tierstack: ")
    sentence = sentence.removeprefix(f"{host}: ").removesuffix(".")
    if not own:
        return sentence
    # What an agent has tried, where it only adds what has become of it.
    tried = [line for line in above if line.startswith("(exit status ")]
    why = _in_brackets([line for line in above if line not in tried], sentence)
    if tried:
        return f"{tried[-1].strip('()')}{why}; {sentence}"
    return _ABOVE.sub(lambda found: found[0] + why, sentence, count=1)


def _in_brackets(lines: Sequence[str], sentence: str) -> str:
    if not lines:
        return ""
    if "listed above" in sentence:
        more = f"; and {len(lines) - 1} more" if lines[1:] else ""
        return f" ({lines[0][:_LONG]}{more})"
    return f" ({_decisive(lines)})"


def _decisive(lines: Sequence[str]) -> str:
    """Return the line of a program's output that says why it failed."""
    traces = [at for at, line in enumerate(lines) if "Traceback (most recent call" in line]
    if traces:
        # Its frames are indented, and its words may have several lines.
        begun = _indent(lines[traces[-1]])
        found = next((line for line in lines[traces[-1] + 1 :] if _indent(line) <= begun), "")
        # One of ours that has run another program: that one's words come before.
        if found and not ("CalledProcessError: " in found and lines[: traces[0]]):
            return found.strip()[:_LONG]
        lines = lines[: traces[0]] or lines
    lines = [line.strip() for line in lines]
    told = [line for line in lines if not _EMPTY.match(line)] or lines
    for telling in _TELLING:
        for line, after in zip(told, [*told[1:], ""], strict=True):
            if telling.search(line):
                return (f"{line} {after}" if line.endswith(":") else line)[:_LONG].strip()
    return told[-1][:_LONG]


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


_ORDER: list[Ending] = ["failed", "lost", "under way", "left out", "well"]


def complete(hosts: Sequence[HostRun]) -> bool:
    """Return whether every step of every host has ended well."""
    return all(host.ending == "well" and not host.left for host in hosts)


def _why(hosts: Sequence[HostRun], stopped_by: str) -> str:
    if stopped_by:
        return f", by {stopped_by}"
    failed, lost = _named(hosts, "failed"), _named(hosts, "lost")
    reasons = [f"{listed(failed)} failed"] if failed else []
    reasons += [f"the connection to {listed(lost)} is lost"] if lost else []
    return f": {', and '.join(reasons)}" if reasons else ", as said above"


def _tell(host: HostRun) -> list[str]:
    words = {
        "failed": f'failed in "{host.step}"',
        "lost": f'connection lost in "{host.step}", which may go on there'
        if host.step
        else "connection lost",
        "under way": f'was at work on "{host.step}", which may go on there',
        "left out": f'left out of "{host.step}"',
        "well": "",
    }[host.ending]
    so_far = f'done up to "{host.done[-1]}", {host.changed or "none"} changed' if host.done else ""
    if host.ending == "well" and not host.left:
        so_far = f"all done, {host.changed or 'none'} changed"
    missing = f"not begun: {_quoted(host.left)}" if host.left else ""
    rest = [line for line in (so_far or "nothing done", missing) if line]
    if not words:
        return rest
    return [f"{words}: {host.said}" if host.said else words, *rest]


def _before_again(hosts: Sequence[HostRun]) -> str:
    """Return what is to be done, the begin of a sentence."""
    failed = _named(hosts, "failed")
    # One that answers no more, after a power cut say, is looked at first.
    logins = [f"{host.name} ({host.login})" for host in hosts if host.ending == "lost"]
    parts = [f"see why {listed(logins)} fell silent"] if logins else []
    parts += [f"mend what {listed(failed)} said"] if failed else []
    sentence = "; ".join([*parts, "type the same again"])
    return sentence[0].upper() + sentence[1:]


def _named(hosts: Sequence[HostRun], ending: Ending) -> list[str]:
    return [host.name for host in hosts if host.ending == ending]


def _quoted(names: Sequence[str]) -> str:
    shown = [f'"{name}"' for name in names[:_LISTED]]
    if len(names) > _LISTED:
        shown.append(f"{len(names) - _LISTED} more")
    return ", ".join(shown)
