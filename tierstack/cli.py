"""The command `tierstack`. It looks, and makes new directories; changes go through pyinfra."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tierstack.engine import ssh_data
from tierstack.host_keys import remember, see
from tierstack.inventory import CHECKOUT, load_cluster
from tierstack.lab.cli import lab
from tierstack.model import TIERS, Cluster, Host, InventoryError, Site, TierstackError
from tierstack.model.front import dns_advice, https_advice
from tierstack.model.graph import svg
from tierstack.model.shell import quoted
from tierstack.model.sizing import (
    balancer_connections,
    cache_memory_mb,
    node_maxconn,
    postgres_memory,
    web_workers,
)
from tierstack.model.source import check_sources, contents_of, sentences
from tierstack.new import make
from tierstack.secrets import certificate_news, check_secrets
from tierstack.terminal import guard
from tierstack.vagrant import vagrant

_INVENTORY = click.argument("inventory", type=click.Path(path_type=Path))


@click.group()
@click.version_option(package_name="tierstack")
def main() -> None:
    """
    Look at a cluster before and after `pyinfra INVENTORY deploy.py`.

    Nothing here changes a host; changes go through pyinfra.
    """
    guard()


main.add_command(lab)
main.add_command(vagrant)


@main.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option(
    "--source",
    type=click.Path(path_type=Path),
    help="Your Django project; by default the working directory, if it is one.",
)
def new(directory: Path, source: Path | None) -> None:
    """
    Make DIRECTORY your own: an inventory, group data, a README.

    Nothing that is there already is overwritten.
    """
    if source is None and Path("manage.py").is_file():
        source = Path.cwd()
    try:
        inventory, *others = make(directory, source)
    except TierstackError as error:
        click.secho(str(error), fg="red", err=True)
        sys.exit(2)
    for file in (inventory, *others):
        click.echo(f"wrote {file}")
    click.echo("\nStill to be written there:")
    try:
        load_cluster(inventory)
    except InventoryError as error:
        for mistake in error.mistakes:
            click.echo(f"  {mistake}")
    click.echo(
        f"\nThen, in {CHECKOUT}:\n  tierstack check {quoted(inventory)}\n  pyinfra {quoted(inventory)} deploy.py"
    )


@main.command()
@_INVENTORY
def check(inventory: Path) -> None:
    """
    Print the cluster that INVENTORY describes, or all that is wrong with it.

    No connection is opened; commands that print secrets are run. Exit status 2 if anything is wrong.
    """
    cluster = _load(inventory)
    mistakes = [*check_secrets(cluster), *check_sources(cluster)]
    if mistakes:
        click.secho(str(InventoryError(str(inventory), mistakes)), fg="red", err=True)
        sys.exit(2)
    console = Console()
    table = Table("tier", "host", "address", "size", box=None, pad_edge=False)
    for tier in TIERS:
        for host in cluster.tier(tier):
            _row(table, tier, host.name, host.address, _size(cluster, host, tier))
    console.print(table)
    console.print()
    flows = Table("from", "to", "port", "for", box=None, pad_edge=False)
    for flow in cluster.flows:
        port = f"{flow.protocol} {flow.port}"
        _row(flows, flow.source, flow.target, port, flow.purpose)
    console.print(flows)
    incoming = ", ".join(cluster.settings.base.incoming) or "nothing"
    console.print(Text(f"Into every host may come besides: {incoming}."), soft_wrap=True)
    console.print(f"Out of every host may go besides: {_outgoing(cluster)}.", soft_wrap=True)
    console.print()
    for site in cluster.sites:
        domains = ", ".join(site.settings.domains)
        console.print(f"Site {site.name}: {domains}, from {site.source}", soft_wrap=True)
    for sentence in dns_advice(cluster):
        console.print(sentence, soft_wrap=True)
    if any(cluster.mounts_share(host) for host in cluster.tier("web")):
        console.print(f"MEDIA_ROOT reaches the web hosts by {cluster.settings.media.share}.")
    for sentence in [*https_advice(cluster), *_releases(cluster)]:
        console.print(sentence, soft_wrap=True, markup=False, highlight=False)
    for sentence in certificate_news(cluster):
        console.print(sentence, soft_wrap=True)
    click.secho(f"{inventory} is right; no host was asked.", fg="green")


@main.command()
@_INVENTORY
@click.option("--yes", "-y", is_flag=True, help="Trust the keys without being asked.")
def trust(inventory: Path, yes: bool) -> None:
    """
    Show the SSH host keys of INVENTORY, and keep those you trust in known_hosts beside it.

    Nobody logs in. Exit status 1 if a host shows no key, or another than the one that is known.
    """
    cluster = _load(inventory)
    seen = see(cluster.inventory, ssh_data(cluster))
    table = Table("host", "reached at", "key", "known", box=None, pad_edge=False)
    for key in seen:
        known = key.known or key.wrong.partition(": ")[0] or "no"
        _row(table, key.host, key.target, key.fingerprint or "–", known)
    Console(width=160).print(table)
    new = [key for key in seen if key.entry]
    if new:
        click.echo(
            "\nTo compare, on a host's own console: ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub"
        )
        hosts = f"{len(new)} host{'s' if len(new) > 1 else ''}"
        if not yes:
            click.confirm(f"Trust the keys of {hosts}?", abort=True)
        click.echo(f"wrote {hosts} to {remember(cluster.inventory, new)}")
    for key in seen:
        if key.wrong:
            click.secho(f"{key.host} {key.wrong}", fg="red", err=True)
    sys.exit(1 if any(key.wrong for key in seen) else 0)


@main.command()
@_INVENTORY
@click.option(
    "--output", "-o", type=click.Path(path_type=Path), help="File to write; by default to stdout."
)
def graph(inventory: Path, output: Path | None) -> None:
    """Draw the tiers and flows of INVENTORY as SVG."""
    picture = svg(_load(inventory))
    if output is None:
        click.echo(picture)
        return
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(picture, encoding="utf-8")


@main.command()
@_INVENTORY
@click.option("--diff", is_flag=True, help="Show the lines that change; no secret is shown.")
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON.")
@click.option("--data", multiple=True, metavar="KEY=VALUE", help="As the run would be told.")
def plan(inventory: Path, diff: bool, as_json: bool, data: tuple[str, ...]) -> None:
    """
    Ask the live hosts of INVENTORY what the next `pyinfra INVENTORY deploy.py` would do.

    No host is changed, and no other run is kept out. Secrets that are still missing are made and
    kept, as a run would make them.

    Exit status 0 if nothing would change, 2 if something would, 1 if the run would be refused or
    a host does not answer.
    """
    from pyinfra.api.exceptions import PyinfraError

    from tierstack.plan import hidden_values, rehearse  # pyinfra's engine takes a second to import

    cluster = _load(inventory, status=1)
    try:
        if mistakes := [*check_secrets(cluster), *check_sources(cluster)]:
            raise InventoryError(str(inventory), mistakes)
        words = {key: value for key, _, value in (pair.partition("=") for pair in data)}
        found = rehearse(cluster, diff=diff, data=words)
    except (PyinfraError, TierstackError) as error:
        click.secho(str(error), fg="red", err=True)
        sys.exit(1)
    secrets = hidden_values(cluster)
    if as_json:
        said = found.as_dict(diff=diff, secrets=secrets)
        click.echo(json.dumps({**said, "releases": _releases(cluster)}, indent=2))
    else:
        for sentence in _releases(cluster):
            click.echo(sentence)
        for line in found.text(diff=diff, secrets=secrets):
            click.secho(line, fg=_COLORS.get(line.lstrip()[:1]))
    if found.refusals:
        sys.exit(1)
    sys.exit(0 if found.empty else 2)


@main.command()
@_INVENTORY
@click.option("--json", "as_json", is_flag=True, help="Print the table as JSON.")
def status(inventory: Path, as_json: bool) -> None:
    """
    Ask the live hosts of INVENTORY how they are: a line a node.

    Exit status 1 if anything is wrong.
    """
    from tierstack.status import survey  # pyinfra's engine takes a second to import

    cluster = _load(inventory)
    nodes = survey(cluster)
    if as_json:
        click.echo(json.dumps([node.as_dict() for node in nodes], indent=2))
    else:
        table = Table("tier", "host", "state", "serves", "notes", box=None, pad_edge=False)
        for node in nodes:
            color = "green" if node.good else "red"
            state = Text(node.state, color)
            _row(table, node.tier, node.host, state, node.serves, node.notes)
        Console().print(table)
        for site in cluster.sites:
            click.echo(_way_in(cluster, site))
    if not all(node.good for node in nodes):
        sys.exit(1)


def _row(table: Table, *cells: str | Text) -> None:
    """Add a row; brackets in it, such as an address's or what a host says, are no markup."""
    table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in cells))


def _way_in(cluster: Cluster, site: Site) -> str:
    """Return how to look at a site before DNS names point to it."""
    settings = cluster.settings.balancer
    scheme, port = (
        ("https", settings.https_port) if settings.https else ("http", settings.http_port)
    )
    domain, address = site.settings.domains[0], cluster.tier("balancer")[0].address
    return (
        f"{site.name} is at {scheme}://{domain}/ on {address}; without DNS:"
        f" curl -k --resolve {domain}:{port}:{address} {scheme}://{domain}/"
    )


def _releases(cluster: Cluster) -> list[str]:
    """Return what releases of the sites would hold now, as sentences."""
    return [
        sentence
        for site in cluster.sites
        for sentence in sentences(site, contents_of(site.source, site.settings.include))
    ]


#: Of a plan's lines, by the sign that they start with.
_COLORS = {"+": "green", "-": "red", "~": "yellow"}


def _load(inventory: Path, status: int = 2) -> Cluster:
    """Read the inventory, or end with its mistakes and this exit status."""
    try:
        return load_cluster(inventory)
    except TierstackError as error:
        click.secho(str(error), fg="red", err=True)
        sys.exit(status)


def _outgoing(cluster: Cluster) -> str:
    outgoing = cluster.settings.base.outgoing
    if outgoing is None:
        return "anything"
    return ", ".join(outgoing) or "nothing"


def _size(cluster: Cluster, host: Host, tier: str) -> str:
    if host.memory_mb is None:
        return "by its memory, asked at the deploy"
    if tier == "web":
        workers = web_workers(cluster, host)
        return f"{workers} workers, {node_maxconn(cluster, host)} requests a balancer"
    if tier == "db":
        memory = postgres_memory(cluster, host)
        connections = cluster.settings.db.max_connections
        return f"{memory.shared_buffers_mb} MiB of buffers, {connections} connections"
    if tier == "cache":
        return f"{cache_memory_mb(cluster, host)} MiB of items"
    if tier == "balancer":
        return f"{balancer_connections(cluster, host)} connections"
    return "–"


if __name__ == "__main__":
    main()
