"""Make ready what tests on hosts would wait for, while those that need none run."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tests.operator import ROOT
from tierstack.lab import Lab
from tierstack.lab.machine import install_packages

VAGRANT = ("vagrant", "vagrant-lxc", "vagrant-libvirt")


def install_vagrant() -> None:
    """
    Install Vagrant and its providers for LXC and libvirt; what is there stays.

    Raises:
        LabError: they cannot be installed.
    """
    query = ["dpkg-query", "-Wf${Status}"]
    shown = (subprocess.run([*query, name], capture_output=True, check=False) for name in VAGRANT)
    missing = [
        name
        for name, said in zip(VAGRANT, shown, strict=True)
        if b"ok installed" not in said.stdout
    ]
    if missing:
        install_packages(missing)


@contextmanager
def preparations(*, vms: bool) -> Iterator[None]:
    """
    Prepare beside the block. What fails is done again, and told, by the first test that needs it.

    Args:
        vms: whether virtual machines are wanted, and Vagrant.
    """
    quiet = subprocess.DEVNULL
    with subprocess.Popen(
        [sys.executable, "-m", "tests.prepare", *(["vms"] if vms else [])],
        cwd=ROOT, stdin=quiet, stdout=quiet, stderr=quiet,
        # Ctrl-C is for the tests: packages that are installed by half would stay so.
        start_new_session=True,
    ):  # fmt: skip
        yield


if __name__ == "__main__":
    Lab().build_images(vms="vms" in sys.argv)
    if "vms" in sys.argv:
        install_vagrant()
