"""Checks: all of them, in the order in which they are told of. A new one is an object in one of these lists."""

from collections.abc import Sequence
from typing import Any

from mediator.cli.doctor.broker_clocks import BrokerClocks
from mediator.cli.doctor.brokers import Brokers
from mediator.cli.doctor.check import Check
from mediator.cli.doctor.consumers import Consumers
from mediator.cli.doctor.retention import Retention
from mediator.cli.doctor.streams import Streams
from mediator.cli.doctor.wiring import Parts, Wiring

_of_databases: Sequence[Check]
_engines: Any
try:
    from mediator.cli.doctor import engines
    from mediator.cli.doctor.database_checks import DATABASE_CHECKS

    _engines, _of_databases = engines, DATABASE_CHECKS
except ModuleNotFoundError as _missing:
    if _missing.name not in {"sqlalchemy", "aiosqlite", "filelock"}:
        raise
    _engines, _of_databases = None, ()

ENGINES: Any = _engines
"""Finds the databases; `None` without SQLAlchemy."""

CHECKS: Sequence[Check] = (
    Wiring(),
    Parts(),
    *_of_databases,
    Brokers(),
    Streams(),
    Consumers(),
    Retention(),
    BrokerClocks(),
)
"""What `mediator doctor` runs."""
