"""Command: the command `mediator doctor`, with the list of its checks."""

import sys
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import click

from mediator.cli.container import report_of
from mediator.cli.doctor.brokers import BrokerClocks, Brokers
from mediator.cli.doctor.consumers import Consumers, Retention
from mediator.cli.doctor.finding import Check, Report, examine
from mediator.cli.doctor.installation import Options
from mediator.cli.doctor.opening import opened
from mediator.cli.doctor.streams import Streams
from mediator.cli.doctor.wiring import Parts, Wiring
from mediator.cli.options import COUNT_OR_NONE, PACKAGES, RELAY_ELSEWHERE, SECONDS, SECONDS_OR_NONE
from mediator.cli.work import JSON, TARGET, reporting

_databases: Any
try:
    from mediator.cli.doctor import databases

    _databases = databases
except ModuleNotFoundError as _missing:
    if _missing.name not in {"sqlalchemy", "aiosqlite", "filelock"}:
        raise
    _databases = None

CHECKS: Sequence[Check] = (
    Wiring(),
    Parts(),
    *(_databases.DATABASE_CHECKS if _databases else ()),
    Brokers(),
    Streams(),
    Consumers(),
    Retention(),
    BrokerClocks(),
)
"""The checks that `mediator doctor` runs."""


async def diagnose(container: Any, options: Options, checks: Sequence[Check] = CHECKS) -> Report:
    """Run checks on the opened parts of a container, and return a report. The checks change nothing.

    The resources that the parts need are started, with all their side effects. No worker is started.
    """
    async with opened(container, options, _databases) as installation:
        return Report(await examine(installation, checks, timeout=options.timeout))


def _address(_context: click.Context, parameter: click.Parameter, url: str | None) -> str | None:
    try:
        parts = urlsplit(url or "")
        fine = url is None or (parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0)
    except ValueError:  # an invalid port
        fine = False
    if not fine:
        text = "give the URL of a nats-server's monitoring, such as http://host:8222."
        raise click.BadParameter(text, param=parameter)
    return url


@click.command("doctor")
@TARGET
@JSON
@click.option("--strict", is_flag=True, help="Exit with status 1 for warnings, too.")
@click.option(
    "--timeout",
    type=SECONDS,
    default=10.0,
    show_default=True,
    help="Seconds that each check, and the opening of each part, may take.",
)
@click.option(
    "--backlog-age",
    type=SECONDS_OR_NONE,
    default=300.0,
    show_default=True,
    help="Seconds that an event may wait in the outbox, or be overdue for a later try.",
)
@click.option(
    "--lag", type=COUNT_OR_NONE, default=10_000, show_default=True, help="Events that may wait for a consumer."
)
@click.option(
    "--monitoring", metavar="URL", callback=_address, help="A nats-server's monitoring, such as http://host:8222."
)
@RELAY_ELSEWHERE
@PACKAGES
def doctor(target: str, *, machine: bool, strict: bool, **given: Any) -> None:
    """Check the wiring, databases and brokers of an application in operation, and say what to do about faults.

    Exits with status 1 when there are faults.
    """
    with reporting():
        options = Options(**given)
        given.clear()  # the monitoring URL may hold a password, and a traceback may show local variables
        report = report_of(target, lambda container: diagnose(container, options), options.packages)
        click.echo(report.as_json() if machine else report.as_text())
        sys.exit(report.status(strict=strict))
