"""Database checks: those that need SQLAlchemy."""

from collections.abc import Sequence

from mediator.cli.doctor.backlog import Backlog
from mediator.cli.doctor.check import Check
from mediator.cli.doctor.database_clocks import DatabaseClocks
from mediator.cli.doctor.engines import Writable
from mediator.cli.doctor.parked import Parked
from mediator.cli.doctor.pools import Pools
from mediator.cli.doctor.postgresql import PostgresqlSettings
from mediator.cli.doctor.sqlite import SqliteSettings
from mediator.cli.doctor.tables import Tables

DATABASE_CHECKS: Sequence[Check] = (
    Writable(),
    Tables(),
    PostgresqlSettings(),
    SqliteSettings(),
    Pools(),
    DatabaseClocks(),
    Backlog(),
    Parked(),
)
"""Told of after the wiring, and before what is about brokers."""
