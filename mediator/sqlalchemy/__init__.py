"""Units of work, outbox and inbox on SQLAlchemy 2 (the `sqlalchemy` extra)."""

from mediator.sqlalchemy.engine import open_engine
from mediator.sqlalchemy.idempotency import SqlAlchemyIdempotency
from mediator.sqlalchemy.inbox import SqlAlchemyInbox
from mediator.sqlalchemy.outbox import SqlAlchemyOutbox
from mediator.sqlalchemy.parking import SqlAlchemyParking
from mediator.sqlalchemy.schema import create_schema, metadata, schema_sql
from mediator.sqlalchemy.unit_of_work import SqlAlchemyUnitOfWork

__all__ = [
    "SqlAlchemyIdempotency",
    "SqlAlchemyInbox",
    "SqlAlchemyOutbox",
    "SqlAlchemyParking",
    "SqlAlchemyUnitOfWork",
    "create_schema",
    "metadata",
    "open_engine",
    "schema_sql",
]
