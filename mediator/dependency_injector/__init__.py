"""Support for containers of dependency-injector: providers, starting and stopping, validation, and overriding."""

from mediator.dependency_injector.lifespan import lifespan
from mediator.dependency_injector.mediator_provider import MediatorProvider
from mediator.dependency_injector.override import override, rewired
from mediator.dependency_injector.scan import HandlerScan
from mediator.dependency_injector.scoped import Scoped
from mediator.dependency_injector.validation import validate
from mediator.dependency_injector.workers import workers_of

__all__ = ["HandlerScan", "MediatorProvider", "Scoped", "lifespan", "override", "rewired", "validate", "workers_of"]
