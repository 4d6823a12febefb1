"""FrozenReport: the differences between event classes and their frozen (stored) schemas and samples."""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mediator.distributed.events import DistributedEvent, EventCodec, upcast, upcast_types, wire_type
from mediator.errors import DeclarationError, EventError, FrozenEventsError, Problem
from mediator.testing.frozen.changes import changes
from mediator.testing.frozen.freezing import (
    FrozenEvent,
    codec_of,
    describing_codec,
    events_in,
    frozen_file,
    read_frozen,
)


class FrozenSampleWarning(UserWarning):
    """An event has changed compatibly since it was frozen. The file of the event can be refreshed."""


@dataclass(frozen=True, slots=True)
class FrozenReport:
    """The result of a comparison.

    Attributes:
        checked: The wire types of the compared files, such as `shop.order-placed.v1`.
        problems: Incompatible changes, and files that are missing, unreadable or without a class.
        notes: Compatible changes. The files of the changed events can be refreshed.
    """

    checked: Sequence[str]
    problems: Sequence[Problem]
    notes: Sequence[str]


def check_frozen_events(events: Any, folder: Path | str, *, codec: EventCodec | None = None) -> None:
    """Raise an error if an event has changed incompatibly since it was frozen.

    After an incompatible change, other applications cannot read new events, or this application cannot read old events.
    For each event that has changed compatibly, a `FrozenSampleWarning` is issued.

    Args:
        events: A container, or a list of event classes.
        folder: The folder to which `freeze_events` or `mediator events freeze` has written.
        codec: The codec that reads payloads; by default the codec of the container's unit of work, or `MsgspecCodec`.

    Raises:
        FrozenEventsError: An event has changed incompatibly, or a file is missing, unreadable or without a class. The
            text says what was changed and what to do. The error is also an `AssertionError`.
    """
    report = compare_frozen_events(events, folder, codec=codec)
    for note in report.notes:
        warnings.warn(note, FrozenSampleWarning, stacklevel=2)
    if report.problems:
        raise FrozenEventsError(report.problems)


def compare_frozen_events(events: Any, folder: Path | str, *, codec: EventCodec | None = None) -> FrozenReport:
    """Compare as `check_frozen_events` does, and return a report instead of raising an error."""
    given = [event if isinstance(event, type) else type(event) for event in events_in(events)]
    comparison = _Comparison({wire_type(cls): cls for cls in given}, Path(folder), codec_of(events, codec))
    problems = list(comparison.problems())
    return FrozenReport(sorted(comparison.checked), problems, comparison.notes)


class _Comparison:
    def __init__(self, classes: dict[str, type[DistributedEvent]], folder: Path, codec: EventCodec) -> None:
        self.checked: set[str] = set()
        self.notes: list[str] = []
        self._classes = classes
        self._folder = folder
        self._codec = codec

    def problems(self) -> Iterator[Problem]:
        for wire, cls in self._classes.items():
            if not frozen_file(self._folder, wire).exists():
                text = f"is not frozen yet. Freeze it: `mediator events freeze MODULE:NAME --into {self._folder}`."
                yield Problem(wire, cls.__name__, text)
        for file in sorted(self._folder.glob("*.json")):
            try:
                frozen = read_frozen(file)
            except (ValueError, OSError) as error:
                yield Problem(
                    file.name, "", f"cannot be read: {error}. Restore the file, or delete it and freeze again."
                )
                continue
            self.checked.add(frozen.wire)
            yield from self._compare(frozen)

    def _compare(self, frozen: FrozenEvent) -> Iterator[Problem]:
        own = self._classes.get(frozen.wire)
        upcasting = [cls for cls in self._classes.values() if cls is not own and frozen.wire in upcast_types(cls)]
        if own is not None:
            yield from self._compare_version(frozen, own)
        elif not upcasting:
            yield self._orphan(frozen)
        for cls in upcasting:
            yield from self._compare_upcast(frozen, cls)

    def _compare_version(self, frozen: FrozenEvent, cls: type[DistributedEvent]) -> Iterator[Problem]:
        try:
            codec = describing_codec(self._codec, cls)
            found = changes(frozen.schema, codec.schema(cls))
        except DeclarationError as error:
            yield Problem(frozen.wire, cls.__name__, str(error))
            return
        faults = [change.text for change in found if not change.compatible]
        if not faults:
            try:
                codec.convert(frozen.sample, cls)
            except (EventError, DeclarationError) as error:
                faults = [f"the sample is refused: {error}"]
        if faults:
            yield Problem(frozen.wire, cls.__name__, _incompatible(faults, frozen.version, self._folder))
        elif found:
            texts = "; ".join(change.text for change in found)
            self.notes.append(
                f"{frozen.wire} has changed compatibly since it was frozen: {texts}. Its sample can be refreshed: "
                f"`mediator events freeze MODULE:NAME --into {self._folder} --force`."
            )

    def _compare_upcast(self, frozen: FrozenEvent, cls: type[DistributedEvent]) -> Iterator[Problem]:
        try:
            codec = describing_codec(self._codec, cls)
            codec.convert(upcast(frozen.sample, cls, frozen.version), cls)
        except (EventError, DeclarationError) as error:
            text = (
                f"can no longer be read: its sample cannot be upcast from version {frozen.version} to "
                f"{cls.event_version} and then read: {error} Correct the upcasters of {cls.__name__}."
            )
            yield Problem(frozen.wire, cls.__name__, text)

    def _orphan(self, frozen: FrozenEvent) -> Problem:
        same_type = [cls for cls in self._classes.values() if cls.event_type == frozen.type]
        newer = [cls for cls in same_type if cls.event_version > frozen.version]
        remedy = "Bring its class back"
        if newer:
            name = min(newer, key=lambda cls: cls.event_version).__name__
            remedy = f"Write an upcaster from version {frozen.version} into {name}"
        remedy += ", or delete the file when no event of this version can arrive any more."
        text = f"is frozen, and no class reads it. {remedy}"
        return Problem(frozen.wire, "", text)


def _incompatible(faults: Sequence[str], version: int, folder: Path) -> str:
    return (
        f"has changed incompatibly since it was frozen: {'; '.join(faults)}. Undo the change, or set event_version to "
        f"{version + 1}, write an upcaster `upcasters = {{{version}: ...}}`, and freeze the new version. If no application "
        f"uses this version yet, replace the file: `mediator events freeze MODULE:NAME --into {folder} --force`."
    )
