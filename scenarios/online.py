"""A stack that follows a campaign: what it says of every tick, and what it learns from it."""

import time
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import numpy as np
import pandas as pd

from adsim.config import WorldConfig
from adsim.observation import MAX_MONEY, shown_impressions
from adsim.types import AuctionResult, BoolArray, EventBatch, FloatArray
from adsim.value_source import click_values
from scenarios.observed import Calibration, LabelBook, Recorder
from scenarios.stack import Estimates, Stack

LEARN_EVERY = 2  # ticks per window that a stack learns from, unless others are given
PROBABILITIES = ("ctr", "cvr", "refund_rate")
LIMITS = {name: 1.0 if name in PROBABILITIES else MAX_MONEY for name in Estimates._fields}
"""Upper ends of the estimates."""


class OnlineEstimates:
    """Estimates of one campaign that learn from what it observes, and from nothing else.

    Args:
        stack: ready for the campaign; never modified.
        config: of the world.
        learn_every: ticks per window that the stack learns from, the last one may be shorter; 0: it
            does not learn.

    Attributes:
        stack: as learned so far.
        book: predictions and labels of the episode.
        values: expected net value (n,) of all requests of each tick so far, currency.
        said: estimates of the tick to be played.
        seconds: spent in learning and in predicting, this episode.

    Raises:
        ValueError: learn_every is negative.
    """

    said: Estimates
    recorder: Recorder | None

    def __init__(self, stack: Stack, config: WorldConfig, learn_every: int = LEARN_EVERY) -> None:
        if learn_every < 0:
            raise ValueError(f"learn_every must be >= 0, got {learn_every}")
        self._given, self.stack, self.learn_every = stack, stack, learn_every
        self._time, self._windows = config.time, config.windows
        self._margin = config.campaign.margin

    def restart(self, oracle: Any = None) -> None:
        """A new campaign, with the stack as it was handed over; privileged ones get the oracle."""
        self.stack = deepcopy(self._given)
        if self.stack.privileged:
            self.stack.attach(oracle)
        self.book = LabelBook(self._windows)
        self.recorder = None
        self.values: list[FloatArray] = []
        self.seconds = {"learn": 0.0, "predict": 0.0}
        self.tick = 0

    @property
    def now_hours(self) -> float:
        """Hours of the campaign played so far."""
        return self.tick * self._time.tick_hours

    def estimate(self, obs: Mapping[str, Any]) -> Estimates:
        """Estimates (M,) of a new tick.

        Args:
            obs: observation of Auction-v0; may have more entries.
        """
        self.shown = shown_impressions(obs, self.tick)
        if self.recorder is None:
            windows = self._windows
            self.recorder = Recorder(dict(obs), windows.gmv_hours + windows.refund_hours)
        started = time.perf_counter()
        self.said = self.stack.estimate(obs, self.shown, self._margin)
        self.seconds["predict"] += time.perf_counter() - started
        if self.tick < self._time.num_ticks:
            real = np.count_nonzero(self.shown.mask)
            self.values.append(self.said.expected_net_value[:real].copy())
        return self.said

    def click_values(self) -> FloatArray:
        """Predicted net value of a click (M,), currency, in the tick to be played."""
        return click_values(self.said._asdict())

    def follow(
        self, result: AuctionResult, feedback: EventBatch, explored: BoolArray, over: bool
    ) -> None:
        """Takes in what a tick brought, and learns if it is time.

        Args:
            result: of the auctions of the tick.
            feedback: events seen in the tick.
            explored: (M,) bids that were made for exploration.
            over: this was the last tick.
        """
        assert self.recorder is not None
        if self.learn_every:
            self.recorder.add(self.shown, {"result": result, "feedback": feedback})
        net_gmv = self.click_values() / self._margin
        self.book.add(self.shown, self.said, net_gmv, result, explored)
        self.book.update(feedback)
        self.tick += 1
        if self.learn_every and (over or self.tick % self.learn_every == 0):
            started = time.perf_counter()
            self.stack.partial_fit(self.recorder.window(self.now_hours))
            self.seconds["learn"] += time.perf_counter() - started

    def calibration(self, explored: bool | None = None) -> dict[str, Calibration]:
        """Predictions against the labels that have matured so far; see `LabelBook`."""
        return self.book.calibration(self._seen_hours, explored)

    def curves(self) -> pd.DataFrame:
        """The same by bins of the prediction."""
        return self.book.curves(self._seen_hours)

    @property
    def _seen_hours(self) -> float:
        """Until when all events are known."""
        return np.inf if self.tick >= self._time.num_ticks else self.now_hours
