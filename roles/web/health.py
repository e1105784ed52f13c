"""How a web node is asked whether it serves."""

from __future__ import annotations

from dataclasses import dataclass

import pyinfra
from pyinfra.api.facts import FactBase

#: Answered by the WSGI module itself: 200, or 404 while the node is to get no visitors.
HEALTH_PATH = "/-/health"

#: How often balancers ask, in seconds; a drain waits for as long as the last of them needs.
HEALTH_INTERVAL_S = 1.0


class HealthAnswer(FactBase[str]):
    """What the health path of this host answers: its status, a space, its text."""

    def command(self, address: str, port: int) -> str:
        return (
            f"curl -s -m 5 -w ' %{{http_code}}' http://{address}:{port}{HEALTH_PATH} 2>&1"
            " | tr -d '\\n' | sed -E 's/^(.*) ([0-9]+)$/\\2 \\1/'"
        )

    def process(self, output: list[str]) -> str:
        return output[-1] if output else ""


@dataclass(frozen=True)
class Health:
    """The health path of one web node."""

    address: str
    port: int

    def missing(self) -> str:
        """Return what is missing until the node serves, or "". A node on hold is well as it is."""
        said = pyinfra.host.get_fact(HealthAnswer, address=self.address, port=self.port) or "000"
        if said.startswith(("200 ok", "404 held")):
            return ""
        return f"Apache's health path answers {said.removeprefix('000') or 'not at all'}"
