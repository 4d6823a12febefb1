"""Selection: which parked events a command is about, as options of the command line."""

import functools
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import click

from mediator.cli.errors import CommandError
from mediator.cli.parking import Lot, chosen_lot
from mediator.distributed.parking import ParkedFilter, ParkReason

_AGO = re.compile(r"([0-9]+)([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True, slots=True)
class Selection:
    """Which events.

    Attributes:
        which: What they have in common.
        parking: The provider of the parking they are in; `None` for every parking of the container.
    """

    which: ParkedFilter
    parking: str | None = None

    def with_numbers(self, numbers: Sequence[int]) -> "Selection":
        """Of these, those with the numbers given; all of them when none is."""
        return replace(self, which=replace(self.which, numbers=tuple(numbers)))

    def check_not_everything(self, *, everything: bool) -> None:
        """Have it said when all that is parked is meant.

        Raises:
            CommandError: Neither numbers nor options choose, and `everything` was not said; or both.
        """
        chooses = self.which != ParkedFilter()
        if chooses and everything:
            raise CommandError("--all goes without numbers and without the options that choose.")
        if not chooses and not everything:
            raise CommandError("Say which: numbers, options such as --consumer and --reason, or --all.")

    def of(self, lots: Sequence[Lot]) -> Sequence[Lot]:
        """The parkings that are meant.

        Raises:
            CommandError: There is none of that name, or numbers are given and several parkings may have them.
        """
        if self.parking is not None or self.which.numbers:
            return [chosen_lot(lots, self.parking)]
        return lots


def selecting(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that choose events; it takes them as `selection`."""

    @functools.wraps(command)
    def with_selection(
        *args: Any,
        consumer: str | None,
        event_type: str | None,
        key: str | None,
        reason: str | None,
        direction: Any,
        since: float | None,
        parking: str | None,
        **options: Any,
    ) -> None:
        which = ParkedFilter(
            direction=direction, consumer=consumer, type=event_type, key=key, reason=reason, since=since
        )
        command(*args, selection=Selection(which, parking), **options)

    decorated: Callable[..., None] = with_selection
    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    return decorated


def moment(_context: click.Context, _parameter: click.Parameter, value: str | None) -> float | None:
    """A time, in seconds since the epoch: what `--since` takes."""
    if value is None:
        return None
    ago = _AGO.fullmatch(value)
    if ago is not None:
        return time.time() - int(ago[1]) * _SECONDS[ago[2]]
    try:
        moment = datetime.fromisoformat(value)
    except ValueError as error:
        raise click.BadParameter("use ISO 8601, or a time ago such as 90s, 30m, 12h, 7d") from error
    return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()


_OPTIONS = (
    click.option("--consumer", help="Of the consumer with this group."),
    click.option("--type", "event_type", help="Of this type on the wire, such as sales.order-placed.v1."),
    click.option("--key", help="Of this partition key."),
    click.option("--reason", help=f"Parked for this reason: {', '.join(ParkReason)}, or another."),
    click.option("--direction", type=click.Choice(["in", "out"]), help="Those that came in, or were to go out."),
    click.option("--since", callback=moment, help="Parked since then: ISO 8601 (UTC), or 90s, 30m, 12h, 7d ago."),
    click.option("--parking", help="In the parking of this provider, such as container.parking."),
)
