"""Payloads as JSON through msgspec: dataclasses, attrs classes and Structs need nothing more."""

from mediator.msgspec.codec import MsgspecCodec, MsgspecRequestCodec

__all__ = ["MsgspecCodec", "MsgspecRequestCodec"]
