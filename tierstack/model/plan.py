"""What a run would do to its hosts: the data, the words for it, and diffs that tell no secret."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from tierstack.model.cluster import TIERS

Action = Literal["enable", "start", "reload", "restart"]

#: Stands for a secret value in a diff.
HIDDEN = "(hidden)"

#: Shorter values are no secrets worth the name, and are found in many innocent words.
_SECRET_LENGTH = 6


@dataclass(frozen=True)
class Rules:
    """
    Lines of a file that each let somebody through, and are counted.

    Args:
        one: what one of them is called, e.g. "firewall rule".
        many: what several are called.
        line: regular expression that is found in such a line.
    """

    one: str
    many: str
    line: str

    def find(self, content: bytes) -> list[str]:
        """Return the rules in a file, in order."""
        lines = content.decode(errors="replace").splitlines()
        return [line.strip() for line in lines if re.search(self.line, line)]


@dataclass(frozen=True)
class FileChange:
    """
    A path on a host that an operation would change.

    Args:
        path: absolute path.
        before: what is there: "absent", "file", "directory" or "link".
        after: what is there afterwards.
        content: a file's bytes afterwards.
        target: where a link leads afterwards.
        rights: how owner and mode change, in words; "" where they stay, or nothing was there.
        rules: the lines that count, where the file has such.
        secret: whether contents are not to be shown.
        old: a file's bytes now, where they have been asked for.
    """

    path: str
    before: str
    after: str
    content: bytes = field(default=b"", repr=False)
    target: str = ""
    rights: str = ""
    rules: Rules | None = None
    secret: bool = False
    old: bytes | None = field(default=None, repr=False)

    @property
    def change(self) -> str:
        """Return "new", "changed" or "removed"."""
        if self.before == "absent":
            return "new"
        return "removed" if self.after == "absent" else "changed"

    def rule_changes(self, since: bytes | None) -> tuple[list[str], list[str]]:
        """Return the rules that come and those that go, compared with an older content."""
        if self.rules is None:
            return [], []
        old, new = self.rules.find(since or b""), self.rules.find(self.content)
        return [rule for rule in new if rule not in old], [rule for rule in old if rule not in new]

    def diff(self, secrets: Collection[str] = ()) -> str:
        """
        Return the unified diff of a file, or why there is none to see; "" where contents stay.

        Args:
            secrets: values that are hidden wherever they stand.
        """
        if "file" not in (self.before, self.after):
            return f"leads to {self.target}\n" if self.after == "link" else ""
        if self.secret:
            return "contents are not shown: not everybody may read this file\n"
        if self.after == "file" and self.content == self.old:
            return ""
        try:
            old, new = (self.old or b"").decode(), self.content.decode()
        except UnicodeDecodeError:
            return "contents are not shown: this file is no text\n"
        # Hidden first, then compared: a secret of several lines is known by all of them together.
        return _unified(self, hide(old, secrets), hide(new, secrets))


def _unified(file: FileChange, old: str, new: str) -> str:
    lines = difflib.unified_diff(
        old.splitlines(),
        new.splitlines(),
        "/dev/null" if file.before == "absent" else file.path,
        "/dev/null" if file.after == "absent" else file.path,
        lineterm="",
    )
    return "".join(f"{line}\n" for line in lines)


def hide(text: str, secrets: Collection[str]) -> str:
    """Return a text in which no secret stands, nor a line of one that has several."""
    parts = {part.strip() for secret in secrets for part in (secret, *secret.splitlines())}
    for part in sorted(parts, key=len, reverse=True):
        if len(part) >= _SECRET_LENGTH:
            text = text.replace(part, HIDDEN)
    return text


@dataclass(frozen=True)
class Effect:
    """
    What one command does to a host.

    Args:
        files: paths that it changes.
        units: what it does to systemd's units, in order.
        packages: Debian packages that it installs.
        drains: nodes that take no visitors meanwhile, or any more.
        notes: what else it does, each in a few words: "applies migrations of shop".
        condition: where it may turn out that there is nothing to do, when it does something, e.g.
            "if any are missing, which cannot be told now"; "" where it is sure to.
    """

    files: tuple[FileChange, ...] = ()
    units: tuple[tuple[Action, str], ...] = ()
    packages: tuple[str, ...] = ()
    drains: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    condition: str = ""


@dataclass(frozen=True)
class Step:
    """
    An operation that would change a host.

    Args:
        operation: its name.
        position: its place in the run, which hosts share that take part in it.
        effects: what it does; none where it does not tell.
    """

    operation: str
    position: int
    effects: tuple[Effect, ...]

    @property
    def condition(self) -> str:
        """Return when it does something, or "" if it is sure to."""
        reasons = [effect.condition for effect in self.effects]
        return reasons[0] if reasons and all(reasons) else ""

    @property
    def files(self) -> list[FileChange]:
        """Return the paths that it changes."""
        return [file for effect in self.effects for file in effect.files]

    @property
    def units(self) -> list[tuple[Action, str]]:
        """Return what it does to systemd's units."""
        return [unit for effect in self.effects for unit in effect.units]

    @property
    def drains(self) -> list[str]:
        """Return the nodes that take no visitors meanwhile, or any more."""
        return [node for effect in self.effects for node in effect.drains]

    @property
    def packages(self) -> list[str]:
        """Return the packages that it installs."""
        return [package for effect in self.effects for package in effect.packages]

    @property
    def notes(self) -> list[str]:
        """Return what else it does."""
        return [note for effect in self.effects for note in effect.notes]


def with_old(steps: Iterable[Step], contents: Mapping[str, bytes]) -> list[Step]:
    """
    Return the steps of a host, with what each of them finds in the files.

    Operations compare with the host as it is now. What an earlier one of the run leaves in a file
    is what a later one finds there; what it has done by then is left out.

    Args:
        steps: in the order of the run.
        contents: what is in the files now, by path, of those that have been asked for.
    """
    now: dict[str, FileChange] = {}

    def found(file: FileChange) -> FileChange | None:
        earlier = now.get(file.path)
        now[file.path] = file
        if earlier is None:
            return replace(file, old=contents.get(file.path))
        if replace(earlier, before="", rights="") == replace(file, before="", rights=""):
            return None
        return replace(file, before=earlier.after, old=earlier.content, rights="")

    def known(effect: Effect) -> Effect:
        return replace(effect, files=tuple(filter(None, map(found, effect.files))))

    return [replace(step, effects=tuple(map(known, step.effects))) for step in steps]


@dataclass(frozen=True)
class HostPlan:
    """
    What a run would do to one host.

    Args:
        name: its name in the inventory.
        tiers: what it is.
        new: whether no run has been there before.
        steps: operations that would change it, in order.
        refusals: sentences with which the run would stop at it.
    """

    name: str
    tiers: tuple[str, ...]
    new: bool
    steps: tuple[Step, ...]
    refusals: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """What a run would do to each of its hosts, in the order of the tiers."""

    hosts: tuple[HostPlan, ...]

    @property
    def refusals(self) -> list[str]:
        """Return the sentences with which the run would stop."""
        return [sentence for host in self.hosts for sentence in host.refusals]

    @property
    def empty(self) -> bool:
        """Whether nothing would change."""
        return not any(host.steps for host in self.hosts)

    def as_dict(self, *, diff: bool, secrets: Collection[str]) -> dict[str, Any]:
        """Return the plan for `--json`; arguments as of `text`."""
        steps = sorted(
            ((step, host.name) for host in self.hosts for step in host.steps),
            key=lambda pair: pair[0].position,
        )
        operations: dict[int, dict[str, Any]] = {}
        for step, name in steps:
            new = {"name": step.operation, "hosts": [], "perhaps": []}
            found = operations.setdefault(step.position, new)
            found["perhaps" if step.condition else "hosts"].append(name)
        return {
            "summary": self.summary(),
            "operations": [
                {**found, "hosts": sorted(found["hosts"]), "perhaps": sorted(found["perhaps"])}
                for found in operations.values()
            ],
            "hosts": [
                {
                    "host": host.name,
                    "tiers": list(host.tiers),
                    "new": host.new,
                    "steps": [_step_dict(step, diff, secrets) for step in host.steps],
                }
                for host in self.hosts
            ],
            "refusals": self.refusals,
        }

    def text(self, *, diff: bool, secrets: Collection[str]) -> list[str]:
        """
        Return the plan in lines to read, the summary last.

        Args:
            diff: whether to show the lines that change, and every file of a new host.
            secrets: values that may stand in no diff.
        """
        lines = []
        for host in self.hosts:
            if not host.steps:
                continue
            what = f", to be set up: {count(len(host.steps), 'operation')}" if host.new else ""
            lines.append(f"{host.name} ({', '.join(host.tiers)}){what}")
            for step in host.steps:
                lines.append(
                    f"  {step.operation}" + (f" ({step.condition})" if step.condition else "")
                )
                if diff or not host.new:
                    lines += [f"    {line}" for line in _step_lines(step, diff, secrets)]
            lines.append("")
        return [*lines, *self.refusals, self.summary()]

    def summary(self) -> str:
        """Return the whole in one sentence."""
        if self.empty:
            return "nothing would change"
        old = [host for host in self.hosts if not host.new]
        parts = []
        if new := [host.name for host in self.hosts if host.new]:
            parts.append(f"{count(len(new), 'host')} set up")
        for tier in TIERS:
            touched = sum(host.tiers[0] == tier and _beyond_rules(host) for host in old)
            word = "balancer" if tier == "balancer" else f"{tier} host"
            parts += [count(touched, word)] if touched else []
        parts += _rule_counts(old)
        names = {host.name for host in self.hosts}
        gone = {node for host in self.hosts for step in host.steps for node in step.drains} - names
        lead = "a new cluster: " if len(new) == len(self.hosts) else ""
        if new and not lead:
            lead = f"adding {listed(new)}: "
        if gone:
            lead = f"removing {listed(sorted(gone))}" + (f", {lead}" if lead else ": ")
        return lead + "; ".join([", ".join(parts) or "no file", *self._service(old, names)])

    def _service(self, old: Sequence[HostPlan], names: Collection[str]) -> list[str]:
        """Return what becomes of what runs now."""
        said = []
        for action in ("start", "reload", "restart"):
            found: dict[str, list[str]] = {}
            for host in old:
                units = [unit for step in host.steps for done, unit in step.units if done == action]
                for unit in dict.fromkeys(units):
                    found.setdefault(unit.removesuffix(".service"), []).append(host.name)
            # The firewall's reload is what its rules are counted for.
            if action != "restart":
                found.pop("tierstack-firewall", None)
            where = [f"{unit} on {listed(hosts)}" for unit, hosts in sorted(found.items())]
            if where:
                said.append(f"{action}s {', '.join(where)}")
            elif action == "restart" and old:
                said.append("restarts nothing that serves")
        drained = {node for host in old for step in host.steps for node in step.drains}
        if stay := sorted(drained & set(names)):
            said.append(f"drains {listed(stay)}" + (", one after the other" if stay[1:] else ""))
        unsure = {
            step.operation: step.condition for h in self.hosts for step in h.steps if step.condition
        }
        said += [f"then perhaps: {operation} ({why})" for operation, why in unsure.items()]
        return said


def _beyond_rules(host: HostPlan) -> bool:
    """Return whether more changes on a host than who is let in."""
    for step in host.steps:
        if not step.effects or step.packages or step.notes or step.drains:
            return True
        if any(file.rules is None for file in step.files) or (step.units and not step.files):
            return True
    return False


def _rule_counts(hosts: Iterable[HostPlan]) -> list[str]:
    """Return how many rules differ at the end of the run from now; one that is replaced counts once."""
    counts: dict[Rules, int] = {}
    for host in hosts:
        now: dict[str, bytes | None] = {}
        differ: dict[str, tuple[Rules, int]] = {}
        for file in (file for step in host.steps for file in step.files):
            if file.rules:
                come, go = file.rule_changes(now.setdefault(file.path, file.old))
                differ[file.path] = file.rules, max(len(come), len(go))
        for rules, number in differ.values():
            counts[rules] = counts.get(rules, 0) + number
    return [count(n, rules.one, rules.many) for rules, n in counts.items() if n]


def listed(names: Sequence[str]) -> str:
    """Return names as in a sentence: "a, b and c"."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def count(number: int, one: str, many: str = "") -> str:
    """Return a number and what it counts: "1 host", "2 hosts"."""
    return f"{number} {one if number == 1 else many or f'{one}s'}"


_SIGNS = {"new": "+", "changed": "~", "removed": "-"}


def _step_lines(step: Step, diff: bool, secrets: Collection[str]) -> list[str]:
    lines = []
    for file in step.files:
        details = [file.rights] if file.rights else []
        if file.rules:
            come, go = file.rule_changes(file.old)
            details += [f"{count(len(come), file.rules.one, file.rules.many)} more"] if come else []
            details += [f"{count(len(go), file.rules.one, file.rules.many)} less"] if go else []
        line = f"{_SIGNS[file.change]} {file.path}"
        lines.append(f"{line} ({', '.join(details)})" if details else line)
        if diff:
            lines += [f"    {line}" for line in file.diff(secrets).splitlines()]
    if step.packages:
        lines.append(f"installs {', '.join(step.packages)}")
    lines += [f"drains {node}" for node in step.drains]
    lines += [f"{action}s {unit.removesuffix('.service')}" for action, unit in step.units]
    return lines + step.notes


def _step_dict(step: Step, diff: bool, secrets: Collection[str]) -> dict[str, Any]:
    files = []
    for file in step.files:
        shown: dict[str, Any] = {"path": file.path, "change": file.change}
        if file.rights:
            shown["rights"] = file.rights
        if file.rules:
            come, go = file.rule_changes(file.old)
            shown["rules"] = {"added": len(come), "removed": len(go)}
        if diff:
            shown["diff"] = file.diff(secrets)
        files.append(shown)
    return {
        "operation": step.operation,
        "perhaps": step.condition,
        "files": files,
        "packages": step.packages,
        "drains": step.drains,
        "units": [{"unit": unit, "action": action} for action, unit in step.units],
        "notes": step.notes,
    }
