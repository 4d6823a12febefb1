from dependency_injector import containers, providers

from mediator import ValidationBehavior
from mediator.dependency_injector import HandlerScan, MediatorProvider

from . import Register

PACKAGE = "tests.adapters.dependency_injector.school"


class School(containers.DeclarativeContainer):
    register = providers.Singleton(Register)
    validation = providers.Factory(ValidationBehavior)
    mediator = MediatorProvider(behaviors=providers.List(validation))
    handlers = HandlerScan(PACKAGE, exclude=f"{PACKAGE}.students.Archive.Handler")
