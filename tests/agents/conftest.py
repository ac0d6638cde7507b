"""A small NumPy market: campaigns, observations and a hard-budget auction loop."""

from typing import NamedTuple

import numpy as np
import pytest

from adsim.types import AuctionResult, Campaign, EventBatch, PriceHistory, Targets

NO_HISTORY = PriceHistory(*(np.zeros(0) for _ in range(4)), ctr=float("nan"), cpc=float("nan"))


class Outcome(NamedTuple):
    won: np.ndarray  # (N,)
    paid: np.ndarray  # (N,) 0 if lost
    spent_share: float


def campaign(
    budget=100.0,
    traffic=(1.0,) * 10,
    history=NO_HISTORY,
    margin=1.0,
    max_bid=1e9,
    mechanism="second_price",
    charge="impression",
    targets=None,
):
    traffic = np.asarray(traffic, np.float64)
    return Campaign(
        budget,
        len(traffic),
        0.5,
        margin,
        targets or Targets(),
        history,
        traffic,
        max_bid,
        mechanism,
        charge,
    )


def observation(value, budget_left=100.0, pctr=0.1, mask=None, list_price=50.0):
    """Observation whose platform value at margin 1 is `value` (M,)."""
    value = np.atleast_1d(np.asarray(value, np.float64))
    pctr = np.broadcast_to(np.asarray(pctr, np.float64), value.shape)
    return {
        "pctr": pctr,
        "pcvr": value / pctr / list_price,
        "list_price": np.full(value.shape, list_price),
        "mask": np.ones(value.shape, np.int8) if mask is None else np.asarray(mask, np.int8),
        "budget_left": np.array([budget_left]),
    }


def outcome_info(won, price, clicked=None, start=0):
    """Info of a tick whose first impression has the id `start`; its clicks are all events."""
    won = np.atleast_1d(np.asarray(won, bool))
    price = np.where(won, np.broadcast_to(np.asarray(price, np.float64), won.shape), np.nan)
    clicked = np.zeros(won.shape, bool) if clicked is None else np.asarray(clicked, bool) & won
    result = AuctionResult(won, price, clicked, np.where(won, 0, -1).astype(np.int8))
    ids = start + np.flatnonzero(clicked)
    feedback = EventBatch(
        np.zeros(ids.size, np.int64), np.zeros(ids.size), np.zeros(ids.size, np.int8), ids,
        np.full(ids.size, -1, np.int16), np.zeros(ids.size),
    )  # fmt: skip
    return {"result": result, "feedback": feedback}


def play(agent, terms, value, price, size, pctr=0.1, clicks=None):
    """Auctions (N,) in ticks of `size`; whoever bids at least the price wins while money lasts."""
    num = len(value)
    traffic = np.diff(np.append(np.arange(0, num, size), num)).astype(np.float64)
    terms = terms._replace(expected_traffic=traffic, num_ticks=len(traffic))
    agent.reset(terms)
    pctr = np.broadcast_to(pctr, value.shape)
    clicks = np.zeros(num, bool) if clicks is None else clicks
    won, paid, left = np.zeros(num, bool), np.zeros(num), terms.budget
    for start in range(0, num, size):
        rows = slice(start, min(start + size, num))
        bid = agent.act(observation(value[rows], left, pctr[rows]))
        cost = bid if terms.mechanism == "first_price" else price[rows]
        win = (bid >= price[rows]) & (bid > 0)
        if cost[win].sum() > left:
            for i in np.flatnonzero(win):
                win[i] = cost[i] <= left - cost[:i][win[:i]].sum()
        won[rows], paid[rows] = win, np.where(win, cost, 0.0)
        left -= paid[rows].sum()
        agent.observe(outcome_info(win, cost, clicks[rows], start))
    return Outcome(won, paid, 1.0 - left / terms.budget)


def lognormal_market(seed, num=10_000, num_history=2000, correlation=0.0, share=0.4, spread=1.0):
    """Values and prices (N,), log-normal; the budget is a share of what value bidding spends."""
    rng = np.random.default_rng(seed)
    z = rng.standard_normal((2, num + num_history))
    value = np.exp(spread * z[0])
    price = np.exp(0.8 * (correlation * z[0] + np.sqrt(1 - correlation**2) * z[1]))
    history = PriceHistory(
        price[num:], np.ones(num_history), np.full(num_history, 0.1), value[num:], 0.1, 1.0
    )
    value, price = value[:num], price[:num]
    budget = share * float(price[value > price].sum())
    return value, price, campaign(budget, history=history)


class Market(NamedTuple):
    campaign = staticmethod(campaign)
    observation = staticmethod(observation)
    outcome_info = staticmethod(outcome_info)
    play = staticmethod(play)
    lognormal = staticmethod(lognormal_market)


@pytest.fixture(scope="session")
def market():
    return Market()
