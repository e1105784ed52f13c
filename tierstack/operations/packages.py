"""Debian packages, installed without starting what they bring.

Reason: `apt.packages` lets packages start their services on installation. On a host of several
tiers lighttpd then takes port 80 and Apache fails to start; everywhere a service would answer with
its distribution's configuration, before ours and the firewall are in place.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence

from pyinfra.api.operation import operation

from tierstack.model.plan import Effect, listed
from tierstack.operations.foreseen import Foreseen

# dpkg asks /usr/sbin/policy-rc.d before it starts a service (Debian policy, invoke-rc.d); one that
# the administrator has put there is left alone, one that a killed run of ours left is not. A list younger than a day is not fetched again, but
# one that leads nowhere is. dpkg's lock is waited for: unattended-upgrades may hold it.
_INSTALL = """
set -e
export DEBIAN_FRONTEND=noninteractive
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ] || grep -q tierstack $policy; then
    trap 'rm -f $policy' EXIT
    printf '#!/bin/sh\\n# tierstack: while packages are installed\\nexit 101\\n' > $policy
    chmod 755 $policy
fi
options="-y -q -o DPkg::Lock::Timeout=120 -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold"
dpkg --configure -a
if [ -z "$(find /var/lib/apt/lists -maxdepth 1 -name '*Packages*' -mtime -1 2>/dev/null)" ]; then
    apt-get $options update
fi
install() {{
    apt-get $options --no-install-recommends install {packages}
}}
install || {{ apt-get $options update && install; }} || {{
    echo "tierstack: {names} cannot be installed, as apt says above; look whether this host reaches" \
        "its package sources (apt-get update), and deploy again; nothing that serves was changed." >&2
    exit 1
}}
"""


@operation()
def packages(missing: Sequence[str], before: str = "") -> Generator[Foreseen, None, None]:
    """
    Install Debian packages; their services are neither started nor restarted.

    Args:
        missing: names of those that are not installed, as the host said at the start of the run.
        before: shell command to run first when something is missing, e.g. to write a
            configuration that a package reads while it is installed.
    """
    if missing:
        script = before + _INSTALL.format(packages=" ".join(missing), names=listed(missing))
        yield Foreseen("sh", effect=Effect(packages=tuple(missing)), _stdin=script)
