"""What the accounts of a host may do to a site and to a deploy, the site's own among them."""

from __future__ import annotations

import re

from tests.operator import Operator
from tierstack.model.names import owner_of_site_name

#: Says who can hold which lock of ours.
_TRY = """
for account in nobody example; do
    for lock in $(find /run/tierstack /run/tierstack-* -type f 2>/dev/null | grep -E 'lock|door|room'); do
        runuser -u $account -- flock -n $lock true 2>/dev/null && echo $account ${lock##*/}
    done
done; true
"""


def test_no_account_but_root_can_hold_a_deploy_up(operator: Operator) -> None:
    """Nobody else opens a lock of ours, but for the site the two by which its requests are held back."""
    for host in ("web1", "db1", "media1"):
        locks = operator.ask(host, "find /run/tierstack/locks -type f -printf '%f\\n'").split()
        assert {"run", "work"} <= set(locks), host
    assert sorted(operator.ask("web1", _TRY).splitlines()) == ["example door", "example room"]
    assert operator.ask("db1", _TRY) == operator.ask("media1", _TRY) == ""


def test_no_site_may_have_a_name_that_a_host_has(operator: Operator) -> None:
    """Of all accounts and groups of all hosts, whatever package has made them, only the site's is free."""
    names = {
        line.partition(":")[0]
        for host in operator.cluster().hosts
        for line in operator.ask(host.name, "getent passwd; getent group").splitlines()
    }
    assert len(names) > 40
    possible = {name for name in names if re.fullmatch("[a-z][a-z0-9-]*", name)}
    assert [name for name in sorted(possible) if not owner_of_site_name(name)] == ["example"]
