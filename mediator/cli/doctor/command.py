"""Command: `mediator doctor`."""

import asyncio
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import Any

import click

from mediator.cli.doctor.check import Check, examine
from mediator.cli.doctor.checks import CHECKS, ENGINES
from mediator.cli.doctor.installation import Options
from mediator.cli.doctor.opening import opened
from mediator.cli.doctor.report import Report
from mediator.cli.errors import CommandError
from mediator.cli.reporting import TARGET, reporting
from mediator.cli.target import load_container


async def diagnose(container: Any, options: Options, checks: Sequence[Check] = CHECKS) -> Report:
    """Examine the set-up of a container, and change nothing.

    What its resources do when they are started, they do here too; its workers are not started.

    Args:
        container: The container, an instance.
        options: What to go by.
        checks: What to look at.
    """
    async with opened(container, options, ENGINES) as installation:
        return Report(await examine(installation, checks, timeout=options.timeout))


@click.command("doctor")
@TARGET
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.option("--strict", is_flag=True, help="Let warnings fail too.")
@click.option("--timeout", default=10.0, show_default=True, help="Seconds that opening, and each check, may take.")
@click.option("--backlog-age", default=300.0, show_default=True, help="Seconds that an event may wait in the outbox.")
@click.option("--lag", default=10_000, show_default=True, help="Events that a consumer may have before it.")
@click.option("--monitoring", metavar="URL", help="Of the monitoring of a nats-server: http://host:8222.")
@click.option("--relay-elsewhere", is_flag=True, help="Another process runs the relay of this outbox.")
@click.option(
    "--package", "packages", metavar="NAME", multiple=True, help="An imported package with further event classes."
)
def doctor(target: str, *, as_json: bool, strict: bool, **given: Any) -> None:
    """Look for everything that can be wrong with a set-up in operation, and say what to do.

    Exits with status 1 when there are faults.
    """
    with reporting():
        options = _options(given)
        with redirect_stdout(sys.stderr):  # what the application logs is no part of the report
            report = asyncio.run(diagnose(load_container(target), options))
        click.echo(report.as_json() if as_json else report.as_text())
        sys.exit(report.status(strict=strict))


def _options(given: dict[str, Any]) -> Options:
    monitoring = given["monitoring"]
    if monitoring is not None and not monitoring.startswith(("http://", "https://")):
        raise CommandError("--monitoring is the URL of the monitoring of a nats-server, such as http://host:8222.")
    if given["timeout"] <= 0:
        raise CommandError("--timeout is more than 0 seconds.")
    return Options(**given)
