"""What a run would do, in words: counted, summed up, and without a secret."""

from __future__ import annotations

from dataclasses import replace

from click.testing import CliRunner

from tests.model.conftest import Home
from tierstack.cli import main
from tierstack.model.plan import Effect, FileChange, HostPlan, Plan, Rules, Step, with_old

FIREWALL = Rules("firewall rule", "firewall rules", " accept comment ")
HBA = Rules("line of pg_hba", "lines of pg_hba", "^hostssl ")
CANARY = "canary-4711"
KEY = "-----BEGIN KEY-----\nc2VjcmV0\nbGluZXM=\n-----END KEY-----\n"


def changed(path: str, old: bytes, new: bytes, rules: Rules | None = None) -> FileChange:
    """Return a file that is there and gets another content."""
    return FileChange(path, "file", "file", content=new, rules=rules, old=old)


def firewall(*sources: str) -> bytes:
    """Return a file with a rule for each list of sources."""
    rules = [f'ip saddr {{ {one} }} tcp dport 5432 accept comment "SQL"\n' for one in sources]
    return "".join(["table inet tierstack {\n", *rules, "}\n"]).encode()


def added_node() -> Plan:
    """Return the plan of a web node more, with one host of three other tiers."""
    before, both, after = firewall("1"), firewall("1, 2", "1"), firewall("1, 2")
    nft = "/etc/nftables.conf"
    opened = Effect((changed(nft, before, both, FIREWALL),), (("reload", "tierstack-firewall"),))
    closed = Effect((changed(nft, both, after, FIREWALL),), (("reload", "tierstack-firewall"),))
    hba = changed("/etc/pg_hba.conf", b"# x\n", b"# x\nhostssl a a 2/32 scram\n", HBA)
    haproxy = changed("/etc/haproxy.cfg", b"server web1\n", b"server web1\nserver web2\n")
    proxy = Effect((haproxy,), (("reload", "haproxy.service"),))
    sql = Effect((hba,), (("reload", "postgresql@15-main.service"),))
    return Plan(
        (
            HostPlan("lb1", ("balancer",), False, (Step("Balancer serves", 5, (proxy,)),)),
            HostPlan("web1", ("web",), False, ()),
            HostPlan("web2", ("web",), True, (Step("Packages", 1, (Effect(packages=("a",)),)),)),
            HostPlan(
                "db1",
                ("db",),
                False,
                (
                    Step("Firewall lets in", 2, (opened,)),
                    Step("PostgreSQL runs", 4, (sql,)),
                    Step("Firewall lets in nobody else", 6, (closed,)),
                ),
            ),
            HostPlan("cache1", ("cache",), False, (Step("Firewall lets in", 2, (opened,)),)),
        )
    )


def test_added_node_is_summed_up() -> None:
    """One sentence says what a node more means; a rule that is replaced is one rule."""
    assert added_node().summary() == (
        "adding web2: 1 host set up, 1 balancer, 2 firewall rules, 1 line of pg_hba;"
        " reloads haproxy on lb1, postgresql@15-main on db1; restarts nothing that serves"
    )


def test_plan_is_told_host_by_host() -> None:
    """Each host has its operations and files; a new one is summed up."""
    assert added_node().text(diff=False, secrets=())[:13] == [
        "lb1 (balancer)",
        "  Balancer serves",
        "    ~ /etc/haproxy.cfg",
        "    reloads haproxy",
        "",
        "web2 (web), to be set up: 1 operation",
        "  Packages",
        "",
        "db1 (db)",
        "  Firewall lets in",
        "    ~ /etc/nftables.conf (1 firewall rule more)",
        "    reloads tierstack-firewall",
        "  PostgreSQL runs",
    ]


def test_json_has_operations_in_the_order_of_the_run() -> None:
    """Programs get each operation with its hosts, those that are not sure apart."""
    found = added_node().as_dict(diff=False, secrets=())
    assert found["operations"] == [
        {"name": "Packages", "hosts": ["web2"], "perhaps": []},
        {"name": "Firewall lets in", "hosts": ["cache1", "db1"], "perhaps": []},
        {"name": "PostgreSQL runs", "hosts": ["db1"], "perhaps": []},
        {"name": "Balancer serves", "hosts": ["lb1"], "perhaps": []},
        {"name": "Firewall lets in nobody else", "hosts": ["db1"], "perhaps": []},
    ]


def test_removed_node_and_restarts_are_summed_up() -> None:
    """Who leaves, what restarts, who drains, and what is not sure."""
    leave = Step("Balancer sends", 0, (Effect(drains=("web3",)),))
    tables = Step("Tables fit", 1, (Effect(notes=("applies",), condition="if any are missing"),))
    roll = Effect(
        (changed("/etc/apache2.conf", b"a", b"b"),), (("restart", "apache2.service"),), drains=("",)
    )
    hosts = [
        HostPlan(
            name, ("web",), False, (Step("Apache serves", 2, (replace(roll, drains=(name,)),)),)
        )
        for name in ("web1", "web2")
    ]
    hosts[0] = replace(hosts[0], steps=(tables, *hosts[0].steps))
    plan = Plan((HostPlan("lb1", ("balancer",), False, (leave,)), *hosts))
    assert plan.summary() == (
        "removing web3: 1 balancer, 2 web hosts; restarts apache2 on web1 and web2;"
        " drains web1 and web2, one after the other; then perhaps: Tables fit (if any are missing)"
    )
    assert plan.as_dict(diff=False, secrets=())["operations"][1] == {
        "name": "Tables fit",
        "hosts": [],
        "perhaps": ["web1"],
    }


def test_nothing_to_do() -> None:
    """A plan without a step says so."""
    assert Plan((HostPlan("lb1", ("balancer",), False, ()),)).summary() == "nothing would change"


def test_later_operation_finds_what_an_earlier_one_leaves() -> None:
    """Of two operations on a file the second differs from the first, not from the host as it is."""
    raw = [
        replace(changed("/f", b"", new), old=None) for new in (b"old\nnew\n", b"new\n", b"new\n")
    ]
    steps = with_old(
        [Step(str(n), n, (Effect((file,)),)) for n, file in enumerate(raw)], {"/f": b"old\n"}
    )
    assert [[file.old for file in step.files] for step in steps] == [
        [b"old\n"],
        [b"old\nnew\n"],
        [],
    ]
    assert steps[1].files[0].diff() == "--- /f\n+++ /f\n@@ -1,2 +1 @@\n-old\n new\n"


def test_diff_hides_values_of_secrets() -> None:
    """A secret's value is in no diff, wherever it stands, nor is a line of a key."""
    old, new = f"password {CANARY}\nhost a\n", f"password {CANARY}\nhost b\n{KEY}"
    shown = changed("/f", old.encode(), new.encode()).diff([CANARY, KEY])
    assert shown == (
        "--- /f\n+++ /f\n@@ -1,2 +1,3 @@\n password (hidden)\n-host a\n+host b\n+(hidden)\n"
    )


def test_files_of_the_few_are_not_shown() -> None:
    """What not everybody may read on the host is shown to nobody here."""
    file = replace(changed("/f", b"", CANARY.encode()), secret=True)
    plan = Plan((HostPlan("web1", ("web",), False, (Step("x", 1, (Effect((file,)),)),)),))
    assert CANARY not in "\n".join(plan.text(diff=True, secrets=()))
    assert CANARY not in str(plan.as_dict(diff=True, secrets=()))
    assert CANARY not in repr(plan)
    assert file.diff() == "contents are not shown: not everybody may read this file\n"


def test_wrong_inventory_is_an_error(home: Home) -> None:
    """Status 2 says that something would change, so mistakes have 1."""
    home.group("web", "wokers = 5")
    done = CliRunner().invoke(main, ["plan", str(home.path / "prod.py")])
    assert (done.exit_code, done.stderr.replace(f"{home.path}/", "")) == (
        1,
        "prod.py: 1 error, no host was touched\n  web.wokers: unknown; did you mean workers?\n",
    )
