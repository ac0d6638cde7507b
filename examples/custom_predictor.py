"""A predictor of one's own: the conversion rate of each item, learned while the campaign runs.

A click counts when its conversion window has closed, converted or not: clicks that were not asked
long enough would make the rate too low. This shows how predictors plug in, not how to predict
well: knowing nothing of users, it earns less than the platform's own estimates.

Run: python examples/custom_predictor.py --scenario default
"""

from typing import Self

import numpy as np
import typer

from adsim.checks import check_predictor
from adsim.types import Estimate, EventKind, Impressions, Target, Window
from scenarios.build import make_agent, make_auction_env
from scenarios.estimates import EstimatesWrapper
from scenarios.stack import Stack

ITEM = 8  # column of the item's id: after the ids of the user and seven fields of the user


class ItemCVR:
    """Conversions over clicks of each item, shrunk to a rate that is known before.

    Args:
        prior: conversion rate of an item never clicked.
        strength: clicks that the prior counts for.
        window_hours: after which a click is counted.
    """

    targets = frozenset({Target.CVR})
    privileged = False

    def __init__(
        self, prior: float = 0.05, strength: float = 50.0, window_hours: float = 72.0
    ) -> None:
        self.prior, self.strength, self.window_hours = prior, strength, window_hours
        self.counts: dict[int, np.ndarray] = {}  # item -> (clicks, conversions)
        self.open: dict[int, tuple[float, int]] = {}  # click_id -> (hours, item)
        self.converted: set[int] = set()

    def predict(self, impressions: Impressions) -> dict[Target, Estimate]:
        """CVR of M impressions; changes nothing."""
        nothing = np.zeros(2)
        counts = np.array(
            [self.counts.get(int(item), nothing) for item in impressions.features[:, ITEM]]
        ).reshape(-1, 2)
        mean = (counts[:, 1] + self.strength * self.prior) / (counts[:, 0] + self.strength)
        return {Target.CVR: Estimate(mean, np.zeros(mean.size))}

    def partial_fit(self, window: Window) -> Self:
        """Notes clicks and first purchases, and counts the clicks whose window has closed."""
        events, clicks = window.events, window.clicks
        new = set(events.click_id[events.kind == EventKind.CLICK].tolist())
        for place, click in enumerate(clicks.impression_id.tolist()):
            if click in new:
                self.open[click] = clicks.time_hours[place], int(clicks.features[place, ITEM])
        first = (events.kind == EventKind.PURCHASE) & (events.order_id == 0)
        self.converted |= set(events.click_id[first].tolist())
        closed = [
            c
            for c, (hours, _) in self.open.items()
            if hours + self.window_hours <= window.now_hours
        ]
        for click in closed:
            item = self.open.pop(click)[1]
            count = self.counts.setdefault(item, np.zeros(2))
            count += 1.0, click in self.converted
            self.converted.discard(click)
        return self


def main(scenario: str = "default", ticks: int = 336, seed: int = 0) -> None:
    """Checks the predictor's contract, then plays a campaign on its estimates."""
    check_predictor(ItemCVR, lambda: make_auction_env(scenario, {"time.num_ticks": 8}))
    env = EstimatesWrapper(
        make_auction_env(scenario, {"time.num_ticks": ticks}), Stack({Target.CVR: ItemCVR()})
    )
    agent = make_agent("dual")  # bids on obs["expected_net_value"]
    obs, info = env.reset(seed=seed)
    agent.reset(env.unwrapped.campaign, seed=seed)
    agent.observe(info)
    over = False
    while not over:
        obs, _, over, _, info = env.step(agent.act(obs))
        agent.observe(info)
    cvr, statement = env.calibration()["cvr"], env.unwrapped.statement()
    print(f"CVR of {cvr.count} clicks: {cvr.predicted:.0f} predicted, {cvr.observed:.0f} converted")
    print(f"net value {statement.net_value:.0f}, expected {statement.expected_net_value:.0f}")


if __name__ == "__main__":
    typer.run(main)
