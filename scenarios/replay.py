"""Replay of a real auction log: the protocol of the published RLB experiments on iPinYou.

Cai et al., "Real-Time Bidding by Reinforcement Learning in Display Advertising" (WSDM 2017):
episodes of N auctions in the order of the log, each with its own budget
B = int(cost_train / imp_train * c0 * N); whole-numbered bids of at most 300 and at most the budget
left; a bid at or above the market price wins and pays it. One auction per tick.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from adsim.config import WorldConfig
from adsim.datasets.ipinyou import (
    DEFAULT_C0,
    EPISODE_AUCTIONS,
    MAX_PRICE,
    campaign_files,
    episode_budget,
    read_auction_log,
    read_info,
)
from adsim.env import AuctionEnv
from adsim.scores import fractional_knapsack
from agents import AGENTS
from scenarios.build import make_agent, make_world

PUBLISHED = ("mcpc", "linear", "ss_mdp", "rlb")  # the rows of the published table
_INTEGER_AGENTS: dict[str, dict[str, Any]] = {
    "mcpc": {"integer_bids": True},
    # Published base bid of the linear rule for this campaign: int(theta * 10 / average CTR).
    "linear": {"integer_bids": True, "base_bid": 10.0},
}


class ReplayRow(NamedTuple):
    """One agent's totals over all episodes."""

    agent: str
    auctions: int
    won: int
    clicks: int
    cost: int  # units of the log


def replay_config(
    data: Path, campaign: str, *, auctions: int = EPISODE_AUCTIONS, c0: float = DEFAULT_C0
) -> WorldConfig:
    """The world that plays back one campaign's log.

    Raises:
        FileNotFoundError: no such campaign under `data`.
        ValueError: malformed files.
    """
    log_path, info_path = campaign_files(data, campaign)
    info = read_info(info_path)
    return WorldConfig.model_validate(
        {
            "time": {"num_ticks": auctions, "tick_hours": 1.0},
            "market": {
                "kind": "replay",
                "replay": {
                    "log": str(log_path),
                    "info": str(info_path),
                    # Breaking even at the training log's average cost per click.
                    "click_value": info.cost_train / info.clk_train,
                },
            },
            "campaign": {
                "budget": episode_budget(info, auctions, c0),
                "margin": 1.0,
                "max_bid": float(MAX_PRICE),
            },
        }
    )


def replay_agent(name: str) -> Any:
    """An agent as the published protocol runs it: whole-numbered bids."""
    if name in _INTEGER_AGENTS:
        return AGENTS[name](**_INTEGER_AGENTS[name])
    return make_agent(name)


def play_log(
    config: WorldConfig, name: str, advance: Callable[[int], None] = lambda _: None
) -> ReplayRow:
    """Plays the whole log, episode by episode, through AuctionEnv."""
    env = AuctionEnv(make_world(config))
    agent, log = replay_agent(name), env.world.source.log
    auctions, length = log.price.size, config.time.num_ticks
    won = clicks = cost = 0
    for episode in range(math.ceil(auctions / length)):
        first = episode * length
        obs, info = env.reset(seed=episode, options={"first_auction": first})
        agent.reset(env.campaign, seed=episode)
        if agent.privileged:
            agent.attach(env.oracle())
        agent.observe(info)
        for _ in range(min(length, auctions - first)):
            obs, _, _, _, info = env.step(agent.act(obs))
            agent.observe(info)
        ledger = env.world.ledger
        won += round(ledger.total("wins"))
        clicks += round(ledger.total("clicks"))
        cost += round(ledger.total("spend"))
        advance(min(length, auctions - first))
    return ReplayRow(name, auctions, won, clicks, cost)


def hindsight_row(config: WorldConfig) -> ReplayRow:
    """Most clicks that any bidder could have bought, episode by episode (fractional knapsack)."""
    log, length = read_auction_log(Path(config.market.replay.log)), config.time.num_ticks
    won, clicks, cost = 0.0, 0.0, 0.0
    for first in range(0, log.price.size, length):
        part = slice(first, first + length)
        # A click is worth more than any price, so only clicks are bought, the cheapest first.
        worth = log.click[part] * (2.0 * MAX_PRICE * length)
        best = fractional_knapsack(worth, log.price[part], config.campaign.budget)
        won += float(np.ceil(best.allocation).sum())
        clicks += float(best.allocation @ log.click[part])
        cost += best.spend
    return ReplayRow("bound", log.price.size, round(won), round(clicks), round(cost))
