"""What lab hosts take over from the machine that they run on."""

from pathlib import Path

import pytest

from tierstack.lab import LabError
from tierstack.lab.machine import apt_proxies, apt_sources, pip_configuration, resolv_conf


def test_pip_reaches_what_this_machine_reaches(tmp_path: Path) -> None:
    """Index and certificate go to the host; directories of this machine do not."""
    conf = tmp_path / "pip.conf"
    conf.write_text(
        "[global]\nindex-url = https://packages.example/simple\nno-index = false\n"
        "extra-index-url = file:///srv/wheels https://more.example/simple\n"
    )
    environ = {"PIP_CERT": "/etc/ssl/ca.pem", "PIP_FIND_LINKS": "/srv/links"}

    assert pip_configuration("/opt/lab-wheels", environ, (conf, tmp_path / "none.conf")) == (
        "[global]\n"
        "index-url = https://packages.example/simple\n"
        "extra-index-url = https://more.example/simple\n"
        "find-links = /opt/lab-wheels\n"
        "cert = /etc/ssl/ca.pem\n"
        "disable-pip-version-check = 1\n"
    )


def test_proxies_of_the_environment_reach_apt_and_pip() -> None:
    """A machine behind a proxy gives it to its hosts, whose services have no environment."""
    environ = {"http_proxy": "http://p:1", "HTTPS_PROXY": "http://p:2"}

    assert apt_proxies(environ) == (
        'Acquire::http::Proxy "http://p:1";\nAcquire::https::Proxy "http://p:2";\n'
    )
    assert "proxy = http://p:2\n" in pip_configuration("/w", environ, ())


def test_sources_of_another_release_stay_behind(tmp_path: Path) -> None:
    """Only files that name the image's release are used, and comments name nothing."""
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list").write_text("deb http://mirror.example/debian bookworm main\n")
    (tmp_path / "sources.list.d/new.sources").write_text("Suites: trixie\n# once bookworm\n")
    (tmp_path / "sources.list.d/off.list.disabled").write_text("deb http://x bookworm main\n")

    assert apt_sources("bookworm", tmp_path) == [tmp_path / "sources.list"]


def test_name_servers_that_a_host_can_reach(tmp_path: Path) -> None:
    """A stub resolver on a loopback address is passed over for the servers behind it."""
    stub = tmp_path / "stub"
    stub.write_text("nameserver 127.0.0.53\noptions edns0\n")
    real = tmp_path / "real"
    real.write_text("nameserver\t127.0.0.1\nnameserver 192.0.2.53\nsearch example\n")

    assert resolv_conf((stub, real)) == "nameserver 192.0.2.53\nsearch example\n"
    with pytest.raises(LabError) as refused:
        resolv_conf((stub,))
    assert str(refused.value) == (
        f"{stub} names no server that a lab host can reach (none, or only loopback addresses); "
        "add a `nameserver` line with an address of your network"
    )
