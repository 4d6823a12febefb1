"""StorageCapability: what some storages can do and others cannot."""

from enum import Enum


class StorageCapability(Enum):
    """Declared by an adapter whose cases of it are to run."""

    DURABLE = "what was committed is there when the storage is opened again"
    SEVERAL_WRITERS = "a transaction writes and commits while another one that has written still runs"
