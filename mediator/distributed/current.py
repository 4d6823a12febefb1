"""current_unit_of_work: the unit of work that runs in the current scope."""

from mediator.distributed.reading import lack_of_unit_of_work
from mediator.distributed.unit_of_work import UnitOfWork
from mediator.scope import current_scope


def current_unit_of_work() -> UnitOfWork:
    """The unit of work that runs in the current scope.

    Raises:
        NoScopeError: Nothing is being dispatched.
        NoUnitOfWorkError: No transaction runs.
    """
    transaction = current_scope("a unit of work").transaction
    if not isinstance(transaction, UnitOfWork):
        raise lack_of_unit_of_work("current_unit_of_work()")
    return transaction
