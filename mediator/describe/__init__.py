"""Descriptions of an application: its pipelines of behaviors and handlers, and the messages that they dispatch."""

from mediator.describe.description import Application, Format, described
from mediator.describe.dispatches import dispatches_of, kind_of, wire_name

__all__ = ["Application", "Format", "described", "dispatches_of", "kind_of", "wire_name"]
