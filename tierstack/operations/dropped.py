"""Units and their files that nothing needs any more.

Reason: an `Absent` file of `config` stops no unit, and a unit that runs without its file cannot be
looked up again.
"""

from __future__ import annotations

import shlex
from collections.abc import Generator, Sequence

from pyinfra.api.operation import operation

from tierstack.model.plan import Effect
from tierstack.operations.foreseen import Foreseen


@operation()
def dropped(units: Sequence[str]) -> Generator[Foreseen, None, None]:
    """
    Stop units of ours, start them no more, and take their files away.

    Args:
        units: names of units whose files lie in /etc/systemd/system.
    """
    names = shlex.join(units)
    files = shlex.join(f"/etc/systemd/system/{unit}" for unit in units)
    yield Foreseen(
        # A unit whose file is gone already, by a run that was cut off, is no failure.
        f"systemctl disable --quiet --now {names} || ! ls {files} 2>/dev/null | grep -q .;"
        f" rm -f {files} && systemctl daemon-reload; systemctl reset-failed {names} 2>/dev/null || true",
        effect=Effect(notes=tuple(f"stops {unit}, and takes it away" for unit in units)),
    )
