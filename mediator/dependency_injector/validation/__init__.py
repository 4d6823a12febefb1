"""Validation of a container: a file for each family of rules, and `validate`, which reports all faults."""

from mediator.dependency_injector.validation.events import codec_argument, event_classes, handled_events
from mediator.dependency_injector.validation.report import validate

__all__ = ["codec_argument", "event_classes", "handled_events", "validate"]
