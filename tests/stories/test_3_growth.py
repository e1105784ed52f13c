"""A web node comes and goes under a steady visitor who sees no failed request."""

from __future__ import annotations

import json
from typing import Any

from tests.operator import Operator, assert_nothing_changed
from tests.stories.conftest import SETTINGS, SITE_PASSWORD, asgiref
from tests.visitor import Door, steady_visitor
from tierstack.secrets import load_secrets

LINE = 'lab_host("web3", 13),'

#: Holds dpkg's locks until a while after a run has begun.
HOLD_DPKG = (
    'import fcntl, time; a, b = [open("/var/lib/dpkg/" + name, "w") for name in ("lock",'
    ' "lock-frontend")]; fcntl.lockf(a, fcntl.LOCK_EX); fcntl.lockf(b, fcntl.LOCK_EX); time.sleep(20)'
)


def test_node_is_added_and_removed_without_a_failed_request(operator: Operator) -> None:
    """
    A line more, and the node serves after the next run; the line away, and it leaves first.

    `tierstack plan` has said which operations would change which host, no more and no less, and
    has shown no secret.
    """
    operator.edit(LINE, LINE + '\n    lab_host("web4", 14),')
    operator.lab("up", str(operator.inventory))
    status, plan = planned(operator, "--diff")
    assert status == 2, plan["summary"]
    # As unattended-upgrades does on a host that is a few minutes old.
    operator.ask("web4", f"systemd-run -q --unit=apt-at-work python3 -c '{HOLD_DPKG}'")
    with steady_visitor(operator.door, "/status.json") as seen:
        done = operator.deploy_well()
    assert "another program changes packages there (python3, process " in done.err
    assert ", apt-at-work.service); its end is waited for, up to 10 min" in done.err
    assert [operation for operation in plan["operations"] if operation["perhaps"]] == []
    assert [f"{o['name']}: {', '.join(o['hosts'])}" for o in plan["operations"]] == done.changes
    assert_web4_is_planned(plan)
    assert_no_secret(operator, plan)
    status, plan = planned(operator)
    assert (status, plan["operations"]) == (0, []), plan["summary"]
    assert seen.requests > 100
    assert seen.failed == []
    answers = {
        operator.door.ask("/status.json").text.partition('"node": "')[2][:4] for _ in range(16)
    }
    assert answers == {"web1", "web2", "web3", "web4"}
    assert asgiref(operator, "web4") == asgiref(operator, "web1")
    assert_nothing_changed(operator.deploy())

    operator.edit('\n    lab_host("web4", 14),', "")
    with steady_visitor(operator.door, "/status.json") as seen:
        operator.deploy_well()
    assert seen.requests > 50
    assert seen.failed == []
    answers = {
        operator.door.ask("/status.json").text.partition('"node": "')[2][:4] for _ in range(16)
    }
    assert answers == {"web1", "web2", "web3"}
    address = "".join(host.address for host in operator.cluster().tier("cache")[:1])
    probe = f"timeout 2 bash -c 'exec 3<>/dev/tcp/{address}/11211' 2>/dev/null && echo open || echo shut"
    lab_address = operator.cluster().host("web3").address.rpartition(".")[0] + ".14"
    assert operator.on_address(lab_address, probe).out.strip() == "shut"
    writes = "timeout -s KILL 10 runuser -u example -- touch /srv/example/media/of-web4"
    assert operator.on_address(lab_address, writes).status != 0, "web4 still has MEDIA_ROOT"
    assert_nothing_changed(operator.deploy())


def planned(operator: Operator, *arguments: str) -> tuple[int, dict[str, Any]]:
    """Return the exit status of `tierstack plan --json`, and what it says."""
    done = operator.tierstack("plan", str(operator.inventory), "--json", *arguments)
    assert done.out, done.said
    return done.status, json.loads(done.out)


def assert_web4_is_planned(plan: dict[str, Any]) -> None:
    """The plan sets web4 up, reloads what must know it, and restarts nothing."""
    assert [host["host"] for host in plan["hosts"] if host["new"]] == ["web4"]
    starting = [o["hosts"] for o in plan["operations"] if "serves the release" in o["name"]]
    assert starting == [["web4"]], "who serves is restarted"
    # db, cache and media hosts let it in, each by a rule that names all web nodes.
    expected = "adding web4: 1 host set up, 1 balancer, 1 media host, 5 firewall rules, 2 lines of pg_hba; "
    assert plan["summary"].startswith(expected), plan["summary"]
    assert plan["summary"].endswith("; restarts nothing that serves"), plan["summary"]
    diffs = planned_diffs(plan)
    assert "+hostssl" in diffs["db1", "/etc/postgresql/15/main/pg_hba.tierstack.conf"]
    assert "+    server web4 " in diffs["lb1", "/etc/haproxy/tierstack.cfg"]


def assert_no_secret(operator: Operator, plan: dict[str, Any]) -> None:
    """No password and no line of a key stands in the diffs, though web4 gets files that hold them."""
    diffs = planned_diffs(plan)
    assert any(path.endswith("/tierstack_settings.py") for _, path in diffs)
    secrets = load_secrets(operator.cluster()).values
    values = [value for name, value in secrets.items() if not name.endswith("certificate")]
    lines = {line for value in values for line in value.splitlines()}
    assert SITE_PASSWORD in lines
    assert [path for path, diff in diffs.items() if any(line in diff for line in lines)] == []


def planned_diffs(plan: dict[str, Any]) -> dict[tuple[str, str], str]:
    """Return the diff of every file of a plan, by host and path."""
    return {
        (host["host"], file["path"]): file["diff"]
        for host in plan["hosts"]
        for step in host["steps"]
        for file in step["files"]
    }


def test_release_rolls_without_a_failed_request(operator: Operator) -> None:
    """
    New code and settings reach every node, one after the other, and no visitor notices.

    It requires what the release before did, so that no package index need be there.
    """
    operator.edit("</footer>", "<!-- release two --></footer>", "example/src/templates/base.html")
    operator.edit("SESSION_ENGINE", "SECURE_SSL_REDIRECT = True\nSESSION_ENGINE", SETTINGS)
    nodes = [host.name for host in operator.cluster().tier("web")]
    for node in nodes:
        operator.ask(node, "mv /etc/pip.conf /etc/pip.conf.good")
        operator.ask(
            node, "printf '[global]\\nindex-url = https://127.0.0.1:9/\\n' > /etc/pip.conf"
        )
    try:
        with steady_visitor(operator.door, "/") as seen:
            operator.deploy_well()
    finally:
        for node in nodes:
            operator.ask(node, "mv /etc/pip.conf.good /etc/pip.conf")
    assert seen.requests > 100
    assert seen.failed == []
    pages = [operator.door.ask("/").text for _ in range(9)]
    assert all("<!-- release two -->" in page for page in pages)
    own = 'for v in */venv; do grep -Lx "#!$PWD/$v/bin/python.*" $v/bin/django-admin; done; true'
    assert operator.ask("web1", f"cd /srv/example/releases && {own}") == ""


def test_redirect_to_https_ends(operator: Operator) -> None:
    """A site with SECURE_SSL_REDIRECT: one redirect, then the page (weblate-docker#699)."""
    plain = Door(operator.door.address, operator.door.domain, tls=False)
    assert plain.ask("/").status == 301
    assert operator.door.ask("/").status == 200


def test_outer_proxy_is_believed_once_it_is_named(operator: Operator) -> None:
    """
    One more proxy in front that ends TLS: what it says counts if the user names it, in its own letters.

    What a visitor told that proxy of themselves counts no more than before.
    """
    plain = Door(operator.door.address, operator.door.domain, tls=False)
    headers = {"X-Forwarded-Proto": "HTTPS", "X-Forwarded-For": "198.51.100.1, 203.0.113.7"}
    assert plain.ask("/", headers=headers).status == 301
    here = operator.door.address.rpartition(".")[0] + ".1"
    operator.edit(
        "sites = [",
        f'balancer = dict(trusted_proxies=["{here}"])\n\nsites = [',
        "group_data/all.py",
    )
    operator.deploy_well()
    assert plain.ask("/", headers=headers).status == 200
    assert plain.ask("/").status == 301
    assert plain.ask("/status.json", headers=headers).json()["visitor"] == "203.0.113.7"
    garbage = headers | {"X-Forwarded-For": "198.51.100.1, unknown"}
    assert plain.ask("/status.json", headers=garbage).json()["visitor"] == here


def test_systemd_knows_all_units_as_they_lie_there(operator: Operator) -> None:
    """After changed configurations: who types systemctl is not told to reload anything."""
    for host in operator.cluster().hosts:
        shown = operator.ask(host.name, "systemctl show '*' -p Id,NeedDaemonReload")
        stale = [unit for unit in shown.split("\n\n") if "NeedDaemonReload=yes" in unit]
        assert stale == [], host.name


def test_changed_passwords_reach_everyone(operator: Operator) -> None:
    """Other passwords in the secrets file: site and standby go on with them (docker-mailman#769)."""
    secrets = operator.inventory.with_suffix(".secrets.toml")
    text = secrets.read_text(encoding="utf-8")
    lines = [
        f'{line.partition(" = ")[0]} = "q%41b\'s$x@:/;#ü"' if "_password = " in line else line
        for line in text.splitlines()
    ]
    secrets.write_text("\n".join(lines) + "\n", encoding="utf-8")
    operator.deploy_well()
    assert operator.door.ask("/status.json").status == 200
    streaming = operator.ask(
        "db2",
        "systemctl restart postgresql@15-main && sleep 3; runuser -u postgres -- psql -At -c"
        " 'select status from pg_stat_wal_receiver'",
    )
    assert streaming == "streaming"
    assert_nothing_changed(operator.deploy())
