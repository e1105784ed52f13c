"""`tierstack lab`: hosts on this machine, made from an inventory."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from tierstack.lab.commands import LabError
from tierstack.lab.control import Lab

DEFAULT_VM_MEMORY_MB = 512
STATE_STYLES = {"running": "green", "stopped": "red", "frozen": "yellow"}


@contextmanager
def lab_errors() -> Iterator[None]:
    """Tell a LabError as click tells its own: one sentence, exit status 1."""
    try:
        yield
    except LabError as error:
        raise click.ClickException(str(error)) from None


@click.group()
def lab() -> None:
    """
    Hosts on this machine with systemd and sshd, as a deploy expects them.

    Containers, which share this machine's kernel, or virtual machines, which have one of their
    own, with NFS. A host stays what it was made as.

    TIERSTACK_LAB_SUBNET sets their network, TIERSTACK_LAB_DIR where they are kept.
    """


@lab.command()
@click.argument("inventory", type=click.Path())
@click.option(
    "--vm",
    "vms",
    metavar="HOST",
    multiple=True,
    help="Make HOST a virtual machine, with the memory of its line; may be given again. "
    '"all" makes all so.',
)
def up(inventory: str, vms: tuple[str, ...]) -> None:
    """Make or start the hosts of INVENTORY. Those that run stay as they are."""
    # Here, not above: pyinfra costs a second, and only this command needs it.
    from tierstack.inventory import load_cluster
    from tierstack.model import TierstackError

    try:
        hosts = {host.name: host for host in load_cluster(inventory).hosts}
    except TierstackError as error:
        raise click.ClickException(str(error)) from None
    memory_mb = {name: host.memory_mb or DEFAULT_VM_MEMORY_MB for name, host in hosts.items()}
    chosen = memory_mb if "all" in vms else vms
    with lab_errors():
        Lab().up(
            {name: str(host.address) for name, host in hosts.items()},
            # A name that is no host's gets there too, and is refused by name.
            {name: memory_mb.get(name, DEFAULT_VM_MEMORY_MB) for name in chosen},
        )


@lab.command()
def down() -> None:
    """Remove all hosts and their network. What is on them is lost; the image stays cached."""
    with lab_errors():
        Lab().down()


@lab.command("list")
def list_() -> None:
    """List the hosts and how each is."""
    with lab_errors():
        hosts = Lab().status()
    if not hosts:
        click.echo("The lab has no hosts; `tierstack lab up INVENTORY` makes some.")
        return
    table = Table("host", "kind", "address", "state", "network")
    for host in hosts:
        style = STATE_STYLES[host.state]
        network = "[red]cut[/red]" if host.cut else "[green]ok[/green]"
        table.add_row(
            host.name, host.kind, host.address, f"[{style}]{host.state}[/{style}]", network
        )
    Console().print(table)


@lab.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("host")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def shell(host: str, command: tuple[str, ...]) -> None:
    """
    Open a root shell on HOST, or run COMMAND there.

    On a container it works even when its network is cut; a virtual machine has no other way in.
    """
    if command[:1] == ("--",):
        command = command[1:]
    with lab_errors():
        status = Lab().shell(host, command)
    sys.exit(status)


@lab.command()
@click.argument("host")
def kill(host: str) -> None:
    """Take HOST's power away. Its network is cut, then it stops at once."""
    with lab_errors():
        Lab().kill(host)
    click.echo(f"{host} is dead; `tierstack lab start {host}` brings it back.")


@lab.command()
@click.argument("host")
def start(host: str) -> None:
    """Give HOST power and network back, and wait until it answers."""
    with lab_errors():
        Lab().start(host)
    click.echo(f"{host} runs.")


@lab.command()
@click.argument("host")
def cut(host: str) -> None:
    """Cut HOST's network. What it sends and is sent vanishes without an answer."""
    with lab_errors():
        Lab().cut(host)
    click.echo(f"{host} is cut off; `tierstack lab heal {host}` reconnects it.")


@lab.command()
@click.argument("host")
def heal(host: str) -> None:
    """Give HOST its network back."""
    with lab_errors():
        Lab().heal(host)
    click.echo(f"{host} is connected.")


@lab.command()
@click.argument("host")
def reboot(host: str) -> None:
    """Reboot HOST in order, and wait until it answers again."""
    with lab_errors():
        Lab().reboot(host)
    click.echo(f"{host} runs.")


@lab.command()
@click.argument("host")
def freeze(host: str) -> None:
    """
    Make HOST hang: nothing on it runs.

    A container still accepts connections, as its kernel is this machine's; a virtual machine
    does not answer at all.
    """
    with lab_errors():
        Lab().freeze(host)
    click.echo(f"{host} hangs; `tierstack lab thaw {host}` lets it go on.")


@lab.command()
@click.argument("host")
def thaw(host: str) -> None:
    """Let a frozen HOST go on."""
    with lab_errors():
        Lab().thaw(host)
    click.echo(f"{host} goes on.")


@lab.command()
@click.argument("file", type=click.Path(path_type=Path))
def box(file: Path) -> None:
    """Pack the image as FILE, a box for Vagrant's LXC provider."""
    with lab_errors():
        Lab().box(file)
