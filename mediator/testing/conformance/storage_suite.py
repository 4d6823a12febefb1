"""StorageSuite: what the conformance suites of units of work, outboxes, inboxes and parkings have in common."""

from abc import abstractmethod
from contextlib import AbstractAsyncContextManager

from mediator.testing.conformance.storage import StorageUnderTest
from mediator.testing.conformance.suite import ConformanceSuite


class StorageSuite(ConformanceSuite):
    """Cases that begin with an empty database."""

    @abstractmethod
    def opened(self) -> AbstractAsyncContextManager[StorageUnderTest]:
        """Open an empty database, for one case."""
