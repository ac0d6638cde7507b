"""The loop: agents play campaigns in an environment, and what happened becomes tables."""

from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pandas as pd

from adsim.config import WorldConfig
from adsim.env import AuctionEnv
from adsim.kernels import PRICE, VALUE
from adsim.ledger import COLUMNS, NetValueStatement
from adsim.scores import auctionnet_score, cost_per_action, is_quickspend, rmse_to_traffic
from adsim.types import EventKind
from scenarios.build import make_agent, make_world
from scenarios.results import Tables
from scenarios.schema import Scenario

SAMPLED_AUCTIONS = 6_000  # per campaign, spread over its ticks
_EVENT_NAMES = np.array([kind.name.lower() for kind in EventKind])


def play(
    env: gym.Env[Any, np.ndarray], agent: Any, seed: int
) -> tuple[NetValueStatement, pd.DataFrame]:
    """One campaign; returns its statement and a sample of its auctions.

    The sample holds the prices to beat, which agents do not see: it is for the report.

    Args:
        env: Auction-v0, wrapped or not.
        agent: of `AGENTS`, or alike.
        seed: of the episode.
    """
    base: Any = env.unwrapped  # its world, its oracle
    obs, info = env.reset(seed=seed)
    agent.reset(base.campaign, seed=seed)
    if agent.privileged:
        agent.attach(base.oracle())
    agent.observe(info)
    per_tick = max(SAMPLED_AUCTIONS // base.world.num_ticks, 1)
    samples, over = [], False
    while not over:
        tick, drawn = int(base.world.tick[0]), base.world.drawn
        bids = agent.act(obs)
        obs, _, over, _, info = env.step(bids)
        agent.observe(info)
        count = int(drawn.filled[0])
        picks = np.unique(np.linspace(0, max(count - 1, 0), min(per_tick, count)).astype(np.int64))
        result = info["result"]
        samples.append(
            np.stack(
                [
                    np.full(picks.size, tick),
                    drawn.floats[PRICE, 0, picks],
                    bids[picks],
                    drawn.floats[VALUE, 0, picks],
                    result.won[picks],
                    np.where(result.won[picks], result.price[picks], np.nan),
                ],
                axis=1,
            )
        )
    columns = ["tick", "price", "bid", "value", "won", "paid"]
    auctions = pd.DataFrame(np.concatenate(samples), columns=columns)
    return base.statement(), auctions.astype({"tick": np.int64, "won": bool})


def make_bounded_env(config: WorldConfig) -> AuctionEnv:
    """Auction-v0 that keeps what `hindsight_bound` needs, where there is one."""
    market = config.market
    record = market.kind == "population" and len(market.exposure) == 1
    return AuctionEnv(make_world(config, record_prices=record))


def hindsight_bound(env: AuctionEnv) -> float:
    """Expected net value of the hindsight bound of the episode just played; NaN if undefined."""
    market = env.world.config.market
    if market.kind == "population" and len(market.exposure) > 1:
        return float("nan")
    return env.oracle().hindsight().net_value


def tick_table(env: AuctionEnv) -> pd.DataFrame:
    """The ledger's series with hours and planned spend."""
    config, world = env.world.config, env.world
    table = pd.DataFrame(world.ledger.series[0], columns=list(COLUMNS))
    traffic = world.source.expected_traffic
    table.insert(0, "tick", np.arange(world.num_ticks))
    table.insert(1, "hours", table["tick"] * config.time.tick_hours)
    table["target_spend"] = config.campaign.budget * traffic / traffic.sum()
    margin = config.campaign.margin
    cash = margin * (table["gmv"] - table["refunded"])
    earned = {
        "cash": cash,
        "accrual": margin * table["accrued_net_gmv"],
        "estimated": world.credits.earned[0],
    }
    table["reward"] = earned[config.reward] - table["spend"]
    return table


def event_table(env: AuctionEnv) -> pd.DataFrame:
    """Seen events with their delays: purchase since its click, refund since its purchase."""
    events = env.world.log.as_of(float("inf"))
    clicks = env.world.log.clicks()
    table = pd.DataFrame(
        {
            "kind": _EVENT_NAMES[events.kind],
            "time_hours": events.time_hours,
            "tick": events.tick,
            "amount": events.amount,
            "click_id": events.click_id,
            "order_id": events.order_id,
        }
    )
    table["decision_tick"] = env.world.log.attribute(events)
    start = clicks.time_hours[np.searchsorted(clicks.impression_id, events.click_id)]
    is_refund = (table["kind"] == "refund").to_numpy()
    bought = table[table["kind"] == "purchase"].set_index(["click_id", "order_id"])["time_hours"]
    if is_refund.any():
        keys = pd.MultiIndex.from_frame(table.loc[is_refund, ["click_id", "order_id"]])
        start[is_refund] = bought.loc[keys].to_numpy()
    table["delay_hours"] = table["time_hours"] - start
    return table


def run(
    scenario: Scenario,
    agents: list[str],
    seeds: list[int],
    structures: list[int] | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Iterator[Tables]:
    """Plays every agent on every structure and seed; yields one campaign's tables at a time.

    All agents face the same traffic and, where they win, the same outcomes on a seed. The
    structures default to the scenario's own.
    """
    for structure in structures or [scenario.world.structure_seed]:
        world = scenario.world.model_copy(update={"structure_seed": structure})
        yield from _run_structure(
            scenario.model_copy(update={"world": world}), agents, seeds, progress
        )


def _run_structure(
    scenario: Scenario, agents: list[str], seeds: list[int], progress: Callable[[str], None]
) -> Iterator[Tables]:
    """All campaigns of one structure, seed by seed."""
    market = scenario.world.market
    env = make_bounded_env(scenario.world)
    players = {name: make_agent(name) for name in agents}
    for seed in seeds:
        bound = float("nan")
        for name, agent in players.items():
            statement, auctions = play(env, agent, seed)
            if np.isnan(bound) or market.kind == "population":
                bound = hindsight_bound(env)
            progress(f"{name}, structure {env.world.config.structure_seed}, seed {seed}")
            yield _tables(scenario, env, name, seed, statement, bound, auctions)


def _tables(
    scenario: Scenario,
    env: AuctionEnv,
    agent: str,
    seed: int,
    statement: NetValueStatement,
    bound: float,
    auctions: pd.DataFrame,
) -> Tables:
    """One campaign's rows, labelled."""
    row = {
        "scenario": scenario.name,
        "agent": agent,
        "structure": env.world.config.structure_seed,
        "seed": seed,
        **statement._asdict(),
        "net_roas": statement.net_gmv / statement.spend if statement.spend > 0 else float("nan"),
        "hindsight": bound,
        "share_of_hindsight": statement.expected_net_value / bound if bound > 0 else float("nan"),
    }
    ticks = tick_table(env)
    spend, traffic = ticks["spend"].to_numpy(), env.world.source.expected_traffic
    row["pacing_rmse"] = rmse_to_traffic(spend, statement.budget, traffic / traffic.sum())
    row["quickspend"] = is_quickspend(spend, statement.budget)
    target = env.campaign.targets.net_cpa
    kept = statement.purchases - statement.refunds
    cost = cost_per_action(statement.spend, kept)
    row["auctionnet_score"] = auctionnet_score(kept, target, cost)
    parts = [pd.DataFrame([row])]
    for table in (ticks, event_table(env), auctions):
        table.insert(0, "agent", agent)
        table.insert(1, "structure", env.world.config.structure_seed)
        table.insert(2, "seed", seed)
        parts.append(table)
    return Tables(*parts)
