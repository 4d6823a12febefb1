"""Connecting to NATS: addresses, credentials, TLS, and clients that are replaced when they fail."""

from mediator.nats.connection.connection import AuthenticatedClient, NatsConnection, keep_subscribed, open_connection
from mediator.nats.connection.credentials import redacted
from mediator.nats.connection.supervised import ask, end, listen, withdraw

__all__ = [
    "AuthenticatedClient",
    "NatsConnection",
    "ask",
    "end",
    "keep_subscribed",
    "listen",
    "open_connection",
    "redacted",
    "withdraw",
]
