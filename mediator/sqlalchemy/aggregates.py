"""AggregateSession: a session whose unit of work tracks the aggregates in it, from when they come until they leave."""

from typing import Any, Protocol

from sqlalchemy import event
from sqlalchemy.orm import QueryContext, Session

from mediator.aggregates import AggregateRoot
from mediator.sqlalchemy.session import OWNER, OwnedSession


class _Tracker(Protocol):
    def adopt(self, aggregate: AggregateRoot, /) -> None: ...

    def release(self, aggregate: AggregateRoot, /) -> None: ...


class AggregateSession(OwnedSession):
    """Tells its owner which aggregates are in it: those that it has loaded or was given, and has not let go."""


def _adopt(session: Session | None, entity: object) -> None:
    tracker: _Tracker | None = session.info.get(OWNER) if isinstance(session, AggregateSession) else None
    if tracker is not None and isinstance(entity, AggregateRoot):
        tracker.adopt(entity)


def _adopt_loaded(aggregate: AggregateRoot, context: QueryContext) -> None:
    _adopt(context.session, aggregate)


def _release(session: Session, entity: Any) -> None:
    tracker: _Tracker = session.info[OWNER]
    if isinstance(entity, AggregateRoot):
        tracker.release(entity)


event.listen(AggregateRoot, "load", _adopt_loaded, propagate=True)  # so that rows of other classes cost nothing
event.listen(AggregateSession, "after_attach", _adopt)
for _departure in ("pending_to_transient", "persistent_to_transient", "persistent_to_detached", "deleted_to_detached"):
    event.listen(AggregateSession, _departure, _release)
