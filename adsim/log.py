"""EventLog: what has been observed, and nothing else.

It grows with clicks and seen events only, never with past impressions.
"""

from typing import Any

import numpy as np

from adsim.types import EventBatch, EventKind, Impressions, IntArray


class Columns:
    """Growing arrays of equal length (amortised doubling)."""

    def __init__(self, **dtypes: Any) -> None:
        self.size = 0
        self._arrays = {name: np.empty(64, dtype) for name, dtype in dtypes.items()}

    def __getitem__(self, name: str) -> np.ndarray:
        """The filled part of a column; a view, not to be modified."""
        return self._arrays[name][: self.size]

    def append(self, **values: np.ndarray) -> None:
        """Adds rows; every column must be given."""
        added = len(next(iter(values.values())))
        needed = self.size + added
        for name, array in self._arrays.items():
            if needed > array.size:
                grown = np.empty(max(needed, 2 * array.size), array.dtype)
                grown[: self.size] = array[: self.size]
                self._arrays[name] = array = grown
            array[self.size : needed] = values[name]
        self.size = needed

    def keep(self, rows: np.ndarray) -> None:
        """Drops all rows but the given ones (mask)."""
        kept = {name: self[name][rows] for name in self._arrays}
        self.size = 0
        self.append(**kept)

    def get_state(self) -> dict[str, np.ndarray]:
        """Copies of the filled columns."""
        return {name: self[name].copy() for name in self._arrays}

    def set_state(self, state: dict[str, np.ndarray]) -> None:
        """Restores what `get_state` returned."""
        self.size = 0
        self.append(**state)


class EventLog:
    """Clicks and events that E campaigns have observed so far.

    Args:
        features_of: maps (world, user, context, item) of clicks to features (C, F) and scenes (C,).
    """

    def __init__(self, features_of: Any) -> None:
        self._features_of = features_of
        self._clicks = Columns(
            world=np.int64,
            click_id=np.int64,
            time_hours=np.float64,
            tick=np.int64,
            user=np.int32,
            context=np.int32,
            item=np.int32,
        )
        self._events = Columns(
            world=np.int64,
            tick=np.int64,
            time_hours=np.float64,
            kind=np.int8,
            click_id=np.int64,
            order_id=np.int16,
            amount=np.float64,
        )

    def record_clicks(self, **columns: np.ndarray) -> None:
        """Adds clicks of one tick, increasing in (world, click_id)."""
        self._clicks.append(**columns)

    def record_events(self, **columns: np.ndarray) -> None:
        """Adds the events released in one tick."""
        self._events.append(**columns)

    def forget(self, worlds: IntArray, num_worlds: int) -> None:
        """Clears the given worlds."""
        keep = np.ones(num_worlds, dtype=bool)
        keep[worlds] = False
        for columns in (self._clicks, self._events):
            if columns.size:
                columns.keep(keep[columns["world"]])

    def as_of(self, time_hours: float, world: int = 0) -> EventBatch:
        """Events of a world that happened, and were seen, before a moment."""
        events = self._events
        rows = (events["world"] == world) & (events["time_hours"] < time_hours)
        columns: dict[str, Any] = {name: events[name][rows] for name in EventBatch._fields}
        return EventBatch(**columns)

    def clicks(self, world: int = 0) -> Impressions:
        """The clicks of a world with their features, in order of click_id."""
        clicks = self._clicks
        rows = clicks["world"] == world
        features, scene = self._features_of(
            world, *(clicks[n][rows] for n in ("user", "context", "item"))
        )
        mask = np.ones(scene.size, dtype=np.int8)
        return Impressions(
            clicks["click_id"][rows], clicks["time_hours"][rows], features, scene, mask
        )

    def attribute(self, events: EventBatch, world: int = 0) -> IntArray:
        """Tick of the decision that caused each event (N,).

        Raises:
            ValueError: an event refers to a click that was never observed.
        """
        rows = self._clicks["world"] == world
        known = self._clicks["click_id"][rows]
        position = np.searchsorted(known, events.click_id)
        found = position < known.size
        found[found] = known[position[found]] == events.click_id[found]
        if not found.all():
            raise ValueError(f"events: click_id {events.click_id[~found][0]} was never observed")
        return self._clicks["tick"][rows][position]

    def pending(self, now_hours: float, refund_hours: float, world: int = 0) -> EventBatch:
        """Purchases seen whose refund window is still open at a moment."""
        seen = self.as_of(now_hours, world)
        rows = (seen.kind == EventKind.PURCHASE) & (seen.time_hours > now_hours - refund_hours)
        columns: dict[str, Any] = {k: v[rows] for k, v in seen._asdict().items()}
        return EventBatch(**columns)

    def get_state(self) -> dict[str, np.ndarray]:
        """Everything observed, as named arrays."""
        state = {f"clicks.{name}": array for name, array in self._clicks.get_state().items()}
        return state | {f"events.{name}": array for name, array in self._events.get_state().items()}

    def set_state(self, state: dict[str, np.ndarray]) -> None:
        """Restores what `get_state` returned."""
        for prefix, columns in (("clicks.", self._clicks), ("events.", self._events)):
            part = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
            columns.set_state(part)
