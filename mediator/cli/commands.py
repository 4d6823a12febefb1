"""Commands: the command `mediator`, with the subcommands `run` and `describe`. Other subcommands have their own files."""

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any, get_args

import click

from mediator import __version__
from mediator.cli.container import load_container, nearest
from mediator.cli.doctor.command import doctor
from mediator.cli.events import events
from mediator.cli.options import RELAY_ELSEWHERE, SECONDS_OR_NONE
from mediator.cli.outbox import outbox
from mediator.cli.parked import parked
from mediator.cli.running import run_workers
from mediator.cli.tables import schema
from mediator.cli.topology import topology
from mediator.cli.work import TARGET, CommandError, reporting
from mediator.dependency_injector.mediator_provider import mediators_of
from mediator.describe import Application, Format, described
from mediator.printable import escape_unknown_characters, printable


def describe(containers: Sequence[tuple[str, Any]], message: str | None, form: Format) -> str:
    """Return a description of all messages of the containers, or only of the messages with the class name `message`.

    The description names the behaviors and handlers of each message, in the order in which they run. No resource is
    started.
    """
    applications = list(_applications(containers, message))
    found = [application for application in applications if application.messages]
    if message is not None and not found:
        known = {cls.__name__ for each in applications for cls in each.registry.message_types()}
        raise CommandError(f"The container handles no message {message!r}.{nearest(message, known)}")
    if form == "text" and not found:
        return "No message has a handler."
    return described(found, form)


def _applications(containers: Sequence[tuple[str, Any]], message: str | None) -> Iterator[Application]:
    names = [target.partition(":")[2] for target, _ in containers]
    for (target, container), short in zip(containers, names, strict=True):
        providers = mediators_of(container)
        if not providers:
            raise CommandError("The container has no mediator: add a MediatorProvider to it.")
        title = "" if len(containers) == 1 else short if names.count(short) == 1 else target
        for label, provider in providers:
            registry = provider.own().registry
            chosen = [cls for cls in registry.message_types() if message in (None, cls.__name__)]
            yield Application(f"{title} {label}".strip() if len(providers) > 1 else title, registry, chosen)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="mediator", message="%(prog)s %(version)s")
def cli() -> None:
    """Work with an application's container, named as MODULE:NAME.

    NAME is a container, a container class, or a function without arguments that returns a container.
    """
    escape_unknown_characters()


@cli.command()
@TARGET
@click.option(
    "--drain-timeout",
    type=SECONDS_OR_NONE,
    default=30.0,
    show_default=True,
    help="Seconds that workers may take to stop.",
)
@RELAY_ELSEWHERE
def run(target: str, drain_timeout: float, relay_elsewhere: bool) -> None:
    """Run the workers of a container until SIGTERM or Ctrl-C.

    The workers are its relays and consumers, the responders that answer requests of other applications, and the tasks
    that delete old idempotency keys.
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
    help="text is for people, json for programs; mermaid is a flowchart for Markdown pages.",
)
@click.option("--with", "others", metavar="MODULE:NAME", multiple=True, help="Also describe this container.")
def describe_command(target: str, message: str | None, form: Format, others: tuple[str, ...]) -> None:
    """Show the behaviors and handlers of every message, or only of the message with the class name MESSAGE."""
    with reporting():
        targets = [(each, load_container(each)) for each in (target, *others)]
        click.echo(printable(describe(targets, message, form)))


for _command in (events, outbox, parked, schema, topology, doctor):
    cli.add_command(_command)
