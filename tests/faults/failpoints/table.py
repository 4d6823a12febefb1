"""The table of all failpoints in the documentation, generated from the outcomes that the tests check."""

from collections.abc import Iterator
from itertools import groupby

from tests.faults.failpoints.outcomes import OUTCOMES, Outcome
from tests.faults.failpoints.situations import SITUATIONS

BEGIN = "<!-- generated: python -m tests.faults.failpoints -->"
END = "<!-- end of what is generated -->"


def table() -> str:
    """Return the table as Markdown, with a section for each situation."""
    return "\n".join(_lines())


def _lines() -> Iterator[str]:
    for name, outcomes in groupby(OUTCOMES, key=lambda each: each.situation):
        words = SITUATIONS[name].words
        yield f"### When {words}\n"
        yield "| failpoint | an exception leaves | a cancellation leaves | SIGKILL leaves | and then |"
        yield "| --- | --- | --- | --- | --- |"
        yield from map(_row, outcomes)
        yield ""


def _row(outcome: Outcome) -> str:
    killed = str(outcome.sigkill)
    if outcome.on_sqlite is not None:
        killed += f" (SQLite: {outcome.on_sqlite})"
    cells = (f"`{outcome.point}`", str(outcome.exception), str(outcome.cancellation), killed, outcome.next)
    return f"| {' | '.join(cells)} |"


def with_table(page: str) -> str:
    """Return the page with its table replaced."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{table()}\n{END}{after}"
