"""Make ready what tests on hosts would wait for, while those that need none run."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tests.operator import ROOT
from tierstack.lab import Lab
from tierstack.lab.machine import install_packages

CHROMIUM = ("chromium", "chromium-driver")
VAGRANT = ("vagrant", "vagrant-lxc", "vagrant-libvirt")


def install(packages: Sequence[str]) -> None:
    """
    Install Debian packages on this machine; what is there stays.

    Raises:
        LabError: they cannot be installed.
    """
    query = ["dpkg-query", "-Wf${Status}"]
    shown = (subprocess.run([*query, name], capture_output=True, check=False) for name in packages)
    missing = [
        name
        for name, said in zip(packages, shown, strict=True)
        if b"ok installed" not in said.stdout
    ]
    if missing:
        install_packages(missing)


@contextmanager
def preparations(*, browser: bool, vms: bool) -> Iterator[None]:
    """
    Prepare beside the block. What fails is done again, and told, by the first test that needs it.

    Args:
        browser: whether a real browser is wanted.
        vms: whether virtual machines are wanted, and Vagrant.
    """
    quiet = subprocess.DEVNULL
    wanted = [word for word, really in {"browser": browser, "vms": vms}.items() if really]
    with subprocess.Popen(
        [sys.executable, "-m", "tests.prepare", *wanted],
        cwd=ROOT, stdin=quiet, stdout=quiet, stderr=quiet,
        # Ctrl-C is for the tests: packages that are installed by half would stay so.
        start_new_session=True,
    ):  # fmt: skip
        yield


if __name__ == "__main__":
    Lab().build_images(vms="vms" in sys.argv)
    if "browser" in sys.argv:
        install(CHROMIUM)
    if "vms" in sys.argv:
        install(VAGRANT)
