"""A certificate of one's own, as a user brings it."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path


def make_certificate(pem: Path, domains: Sequence[str]) -> None:
    """Write a self-signed certificate for these domains, and its key, into a file of the user's alone."""
    names = ",".join(f"DNS:{domain}" for domain in domains)
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 90"
    name = ["-subj", f"/CN={domains[0]}", "-addext", f"subjectAltName={names}"]
    made = [*command.split(), *name, "-keyout", "-", "-out", "-"]
    pem.touch(mode=0o600)
    pem.write_bytes(subprocess.run(made, capture_output=True, check=True).stdout)
