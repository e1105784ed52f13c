"""Each operation of ours acts, and then does nothing; and it puts back what it should not have changed."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest

from tests.operator import Deploy, Operator, assert_nothing_changed

_UNIT = """
    [Service]
    ExecStart=/bin/sh -c 'cat /etc/tierstack/probe.conf > /run/probe.loaded; sleep infinity'
    ExecReload=/bin/sh -c 'cat /etc/tierstack/probe.conf > /run/probe.loaded'
    [Install]
    WantedBy=multi-user.target
"""


class Probe:
    """A small service on one lab host that the operation `config` looks after."""

    def __init__(self, operator: Operator, folder: Path) -> None:
        self.operator = operator
        self.file = folder / "probe.py"

    def deploy(self, content: str) -> Deploy:
        """Deploy the service with this content of its file."""
        self.file.write_text(
            dedent(f"""
                from tierstack.operations.config import File, Unit, config
                config(
                    name="Probe serves",
                    stamp="probe",
                    entries=[
                        File("/etc/systemd/system/probe.service", {dedent(_UNIT)!r}.encode(), needs="restart"),
                        File("/etc/tierstack/probe.conf", {content!r}.encode(), mode="600"),
                    ],
                    check="! grep -q bad /etc/tierstack/probe.conf",
                    units=[Unit("probe.service")],
                )
            """),
            encoding="utf-8",
        )
        return self.operator.run_file(self.file, "--limit", "cache2")

    def loaded(self) -> str:
        """Return what the running service has loaded."""
        return self.operator.ask("cache2", "cat /run/probe.loaded")


@pytest.fixture(scope="module")
def probe(operator: Operator, tmp_path_factory: pytest.TempPathFactory) -> Probe:
    """The service, not deployed yet."""
    return Probe(operator, tmp_path_factory.mktemp("probe"))


def test_config_acts_then_does_nothing(probe: Probe) -> None:
    """Files are put in place, the unit is enabled and runs; the second run changes nothing."""
    assert probe.deploy("one").changes == ["Probe serves: cache2"]
    assert probe.loaded() == "one"
    assert_nothing_changed(probe.deploy("one"))


def test_changed_file_is_reloaded(probe: Probe) -> None:
    """A change is loaded without a restart."""
    started = "systemctl show probe -p ActiveEnterTimestampMonotonic"
    before = probe.operator.ask("cache2", started)
    probe.deploy("two")
    assert probe.loaded() == "two"
    assert probe.operator.ask("cache2", started) == before


def test_refused_file_leaves_the_old_one(probe: Probe) -> None:
    """The checker says no: the old file is back, nothing was loaded, the run fails and says why."""
    done = probe.deploy("bad")
    assert done.status != 0
    assert "the old configuration is back in place and still serves" in done.err
    assert probe.operator.ask("cache2", "cat /etc/tierstack/probe.conf") == "two"
    assert probe.loaded() == "two"
    assert_nothing_changed(probe.deploy("two"))


def test_run_cut_off_before_the_reload_is_made_good(probe: Probe) -> None:
    """Files are new but not loaded, as after a run that died there: the next run loads them."""
    probe.operator.ask(
        "cache2",
        'printf three > /etc/tierstack/probe.conf && sed -i \'s/"reload": "[^"]*"/"reload": "unfinished"/\''
        " /var/lib/tierstack/probe.stamp",
    )
    assert probe.loaded() == "two"
    assert probe.deploy("three").changes == ["Probe serves: cache2"]
    assert probe.loaded() == "three"
    assert_nothing_changed(probe.deploy("three"))


def test_stopped_and_disabled_unit_is_brought_back(probe: Probe) -> None:
    """Somebody has stopped and disabled the unit: the next run starts and enables it."""
    probe.operator.ask("cache2", "systemctl disable --now probe.service")
    probe.deploy("three")
    assert probe.operator.ask(
        "cache2", "systemctl is-active probe; systemctl is-enabled probe"
    ) == ("active\nenabled")


def test_edited_file_is_put_right(probe: Probe) -> None:
    """Somebody has edited the file and its mode by hand: the next run puts both right."""
    probe.operator.ask(
        "cache2", "echo x >> /etc/tierstack/probe.conf; chmod 666 /etc/tierstack/probe.conf"
    )
    probe.deploy("three")
    assert probe.operator.ask(
        "cache2", "stat -c %a /etc/tierstack/probe.conf; cat /etc/tierstack/probe.conf"
    ) == ("600\nthree")
    probe.operator.ask(
        "cache2", "systemctl disable --now probe.service; rm /etc/systemd/system/probe.service"
    )


def test_management_commands_of_a_sudo_user(operator: Operator) -> None:
    """Without sudo it says what to type, with it the command runs as the site's account."""
    rights = "ops ALL=(ALL) NOPASSWD: ALL"
    operator.ask("web1", f"useradd -m ops && echo '{rights}' > /etc/sudoers.d/ops")
    whoami = "shell -v 0 -c 'import getpass; print(getpass.getuser())'"
    try:
        refused = operator.on("web1", f"runuser -u ops -- tierstack-manage example {whoami}")
        said = operator.ask("web1", f"runuser -u ops -- sudo tierstack-manage example {whoami}")
        unknown = operator.on("web1", "runuser -u ops -- sudo tierstack-manage shop check")
        without = operator.on("web1", "runuser -u ops -- sudo tierstack-manage example dbshell")
    finally:
        operator.ask("web1", "userdel -r ops 2>/dev/null; rm /etc/sudoers.d/ops")
    assert refused.status == 1
    assert refused.err.startswith(
        "tierstack-manage: ops may not run commands of example; type: sudo tierstack-manage example"
        " shell -v 0 -c "
    )
    assert said.splitlines()[-1] == "example"
    assert (unknown.status, unknown.err) == (
        2,
        "usage: tierstack-manage SITE COMMAND [ARGUMENTS]; sites: example\n",
    )
    # Where psql is there, it starts: test_stopped.
    assert (without.status, without.err) == (
        1,
        'tierstack-manage: dbshell needs psql, which is not on this host: write packages=["postgresql'
        '-client"] in the site and deploy, or type on the primary: runuser -u postgres -- psql example\n',
    )


def test_another_kernel_restarts_nothing(operator: Operator) -> None:
    """Hosts that have a little less memory after their reboot are the hosts that they were."""
    forget = "for name, data in web + db + cache:\n    data.pop('memory_mb', None)\n"
    operator.edit("cluster(__file__)", f"{forget}cluster(__file__)")
    hosts = [host.name for host in operator.cluster().hosts]
    fake = "sed 's/^MemTotal:.*/MemTotal: 521000 kB/' /proc/meminfo > /run/meminfo"
    try:
        for name in hosts:
            operator.ask(name, f"{fake} && mount --bind /run/meminfo /proc/meminfo")
        planned = operator.tierstack("plan", str(operator.inventory))
    finally:
        operator.edit(forget, "")
        for name in hosts:
            operator.on(name, "umount /proc/meminfo")
    assert planned.status == 0, planned.said
    assert planned.out.endswith("nothing would change\n"), planned.said
