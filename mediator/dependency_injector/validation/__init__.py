"""Validation of a container: one file for each family of rules, and one report of all faults."""

from mediator.dependency_injector.validation.events import codec_argument, event_classes, handled_events
from mediator.dependency_injector.validation.report import validate

__all__ = ["codec_argument", "event_classes", "handled_events", "validate"]
