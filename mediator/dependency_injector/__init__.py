"""Everything for containers of dependency-injector: scoped providers, the mediator's provider, start and stop, checks."""

from mediator.dependency_injector.lifespan import lifespan
from mediator.dependency_injector.mediator_provider import MediatorProvider
from mediator.dependency_injector.override import override
from mediator.dependency_injector.scoped import Scoped
from mediator.dependency_injector.validation import validate
from mediator.dependency_injector.workers import workers_of

__all__ = ["MediatorProvider", "Scoped", "lifespan", "override", "validate", "workers_of"]
