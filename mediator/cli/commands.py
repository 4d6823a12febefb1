"""Commands: what `mediator` understands on its command line."""

import asyncio
import sys
from contextlib import redirect_stdout
from typing import get_args

import click

from mediator.cli.description import describe
from mediator.cli.doctor.command import doctor
from mediator.cli.events import events
from mediator.cli.outbox import outbox
from mediator.cli.parked import parked
from mediator.cli.reporting import TARGET, reporting
from mediator.cli.running import run_workers
from mediator.cli.tables import schema
from mediator.cli.target import load_container
from mediator.cli.topology import Report, apply_topology, compare_topology
from mediator.description import Format
from mediator.printable import printable


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="mediator")
def cli() -> None:
    """Work with an application's container, named as MODULE:NAME.

    NAME is a container, a container class, or a function without arguments that returns a container.
    """


@cli.command()
@TARGET
@click.option("--drain-timeout", default=30.0, show_default=True, help="Seconds that workers may take to stop.")
@click.option("--relay-elsewhere", is_flag=True, help="Another process runs the relay of this outbox.")
def run(target: str, drain_timeout: float, relay_elsewhere: bool) -> None:
    """Run the workers of a container until SIGTERM or Ctrl-C.

    Its relays and consumers, what answers requests of other applications, and what forgets old idempotency keys.
    """
    with reporting():
        container = load_container(target)
        asyncio.run(run_workers(container, drain_timeout=drain_timeout, relay_elsewhere=relay_elsewhere))


@cli.command("describe")
@TARGET
@click.argument("message", required=False)
@click.option(
    "--format",
    "form",
    type=click.Choice(get_args(Format)),
    default="text",
    show_default=True,
    help="JSON is for programs, Mermaid a flowchart for Markdown pages.",
)
@click.option("--with", "others", metavar="MODULE:NAME", multiple=True, help="Another application beside it.")
def describe_command(target: str, message: str | None, form: Format, others: tuple[str, ...]) -> None:
    """Show the exact chain of every message, or of the one with the class name MESSAGE."""
    with reporting():
        targets = [(each, load_container(each)) for each in (target, *others)]
        click.echo(printable(describe(targets, message, form)))


cli.add_command(events)
cli.add_command(outbox)
cli.add_command(parked)
cli.add_command(schema)
cli.add_command(doctor)


PACKAGES = click.option(
    "--package", "packages", metavar="NAME", multiple=True, help="An imported package with further event classes."
)
AS_JSON = click.option("--json", "as_json", is_flag=True, help="For programs.")
TIMEOUT = click.option("--timeout", default=10.0, show_default=True, help="Seconds to wait for the broker.")


@cli.group()
def topology() -> None:
    """Compare and create the streams and consumers that a container needs of its broker."""


@topology.command("plan")
@TARGET
@PACKAGES
@AS_JSON
@TIMEOUT
def topology_plan(target: str, packages: tuple[str, ...], as_json: bool, timeout: float) -> None:
    """Show what `apply` would create and update, what differs, and what is not needed any more."""
    with reporting():
        with redirect_stdout(sys.stderr):  # what the application logs is no part of the report
            report = asyncio.run(compare_topology(load_container(target), packages, timeout=timeout))
        _show(report, as_json=as_json)


@topology.command("diff")
@TARGET
@PACKAGES
@AS_JSON
@TIMEOUT
def topology_diff(target: str, packages: tuple[str, ...], as_json: bool, timeout: float) -> None:
    """Show the differences only, and exit with status 1 when there are any."""
    with reporting():
        with redirect_stdout(sys.stderr):
            report = asyncio.run(compare_topology(load_container(target), packages, timeout=timeout))
        _show(report.differences(), as_json=as_json)
        sys.exit(1 if report.is_different else 0)


@topology.command("apply")
@TARGET
@PACKAGES
@AS_JSON
@TIMEOUT
@click.option("--update-streams", is_flag=True, help="Change ages, sizes, windows and replicas of own streams too.")
@click.option("--prune", is_flag=True, help="Take away subjects that no handler here is for.")
def topology_apply(
    target: str, packages: tuple[str, ...], *, as_json: bool, timeout: float, update_streams: bool, prune: bool
) -> None:
    """Create what is missing and add subjects to consumers; nothing is deleted.

    Exits with status 1 when something differs that it does not change.
    """
    with reporting():
        with redirect_stdout(sys.stderr):
            container = load_container(target)
            applying = apply_topology(container, packages, timeout=timeout, update_streams=update_streams, prune=prune)
            report = asyncio.run(applying)
        _show(report, as_json=as_json)
        sys.exit(1 if report.has("differs") else 0)


def _show(report: Report, *, as_json: bool) -> None:
    click.echo(printable(report.as_json() if as_json else report.as_table()))
