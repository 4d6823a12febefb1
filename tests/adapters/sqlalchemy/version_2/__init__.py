"""Tables and rows as the library wrote them with version 2 of its tables: `sqlite.sql`, `postgresql.sql`.

The application "enrollment" wrote both. It has parked four events. The first event was refused by the broker, and the
next event of its key waits in the outbox. The other three events arrived for the group `advising`: the second event of
the key ada is parked because of the first one, and the event without a key is parked alone.
"""

from collections.abc import Sequence
from pathlib import Path


def statements(dialect: str) -> Sequence[str]:
    text = (Path(__file__).parent / f"{dialect}.sql").read_text(encoding="utf-8")
    return [each.strip() for each in text.split(";\n") if each.strip()]
