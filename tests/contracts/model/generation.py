"""Generation: draws random programs."""

from typing import Any

from hypothesis import strategies as st

from mediator import TransactionMode
from mediator.strategies import PublishStrategy
from tests.contracts.model.program import (
    NOTIFICATIONS,
    STRATEGIES,
    Act,
    AfterCommit,
    Ask,
    Behavior,
    Dispatch,
    Fail,
    Kind,
    Simple,
    Step,
    Work,
    Write,
)

LARGEST = 40
"""The maximum number of steps in a program. Each branch of the tree takes its steps from this budget."""

MODES = [TransactionMode.DEFAULT] * 3 + [TransactionMode.NESTED] * 3 + [TransactionMode.NEW, TransactionMode.SUPPRESS]
KINDS = [Kind.PASS] * 25 + list(Kind)
STEPS = ["write"] * 4 + ["dispatch"] * 7 + ["after commit"] * 4 + ["fail"] * 2 + list(Simple)
MESSAGES = [Act, Act, Act, Ask, *NOTIFICATIONS, *NOTIFICATIONS[1:]]


class _Author:
    """Draws one program and gives each part a unique label."""

    def __init__(self, draw: Any, name: str) -> None:
        self._draw = draw
        self._name = name
        self._parts = 0

    def message(self, cls: type | None = None, strategy: PublishStrategy | None = None) -> Any:
        cls = cls or self._draw(st.sampled_from(MESSAGES))
        strategy = strategy or self._draw(st.sampled_from(STRATEGIES))
        works = NOTIFICATIONS.index(cls) if cls in NOTIFICATIONS else 1
        return cls(
            self._label(),
            tuple(self._work(cls, strategy) for _ in range(works)),
            self._behavior(cls, strategy),
            self._behavior(cls, strategy),
            strategy,
        )

    def _label(self) -> str:
        self._parts += 1
        return f"{self._name}.{self._parts}"

    def _work(self, cls: type, strategy: PublishStrategy) -> Work:
        around = self._behavior(cls, strategy) if cls in NOTIFICATIONS else Behavior()
        steps: list[Step] = []
        for _ in range(self._draw(st.integers(0, 6))):
            if self._parts < LARGEST:
                steps.append(self._step())
        return Work(self._label(), tuple(steps), around)

    def _behavior(self, cls: type, strategy: PublishStrategy) -> Behavior:
        kind = self._draw(st.sampled_from(KINDS))
        if kind is Kind.REPLACE and self._parts < LARGEST:
            return Behavior(kind, self.message(cls, strategy))
        return Behavior(Kind.PASS if kind is Kind.REPLACE else kind)

    def _step(self) -> Step:
        kind = self._draw(st.sampled_from(STEPS))
        match kind:
            case "write":
                return Write(self._label())
            case "fail":
                return Fail(self._label())
            case "after commit":
                return AfterCommit(self.message(self._draw(st.sampled_from(NOTIFICATIONS[::-1]))))
            case "dispatch":
                return Dispatch(
                    self.message(), self._draw(st.sampled_from(MODES)), self._draw(st.sampled_from([True, True, False]))
                )
            case _:
                return kind


@st.composite
def programs(draw: Any) -> list[Any]:
    """Draw the first messages of up to three concurrent programs."""
    count = draw(st.integers(1, 3))
    return [_Author(draw, str(number)).message() for number in range(count)]
