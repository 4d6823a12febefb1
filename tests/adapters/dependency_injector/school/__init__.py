"""A school whose handlers are in several modules: a package to be scanned."""

from dataclasses import dataclass, field


@dataclass
class Register:
    """Records the calls of handlers."""

    lines: list[str] = field(default_factory=list)
