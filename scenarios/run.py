"""The loop: agents play campaigns in an environment, and what happened becomes tables."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import pandas as pd

from adsim.config import WorldConfig
from adsim.env import AuctionEnv
from adsim.kernels import PRICE, VALUE
from adsim.ledger import COLUMN, COLUMNS, NetValueStatement
from adsim.scores import auctionnet_score, cost_per_action, is_quickspend, rmse_to_traffic
from adsim.types import EventKind
from scenarios.build import make_agent, make_world
from scenarios.curves import delay_curves, price_curves
from scenarios.estimates import EstimatesWrapper, estimation_loss
from scenarios.online import LEARN_EVERY
from scenarios.results import Tables
from scenarios.schema import Scenario
from scenarios.selection import SelectionMeter
from scenarios.stack import Stack

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


def make_metered_env(
    config: WorldConfig, stack: Stack, *, explore_share: float = 0.0
) -> SelectionMeter:
    """Auction-v0 with the estimates of a stack, and all that `play_campaign` reads."""
    env = make_bounded_env(config)
    learn_every = LEARN_EVERY if stack.predictors else 0
    return SelectionMeter(
        EstimatesWrapper(env, stack, learn_every=learn_every, explore_share=explore_share)
    )


def play_campaign(env: SelectionMeter, agent: Any, seed: int) -> Tables:
    """One campaign and all that is kept of it; `trials` has one row.

    Args:
        env: of `make_metered_env`.
        agent: of `AGENTS`, or alike.
        seed: of the episode.
    """
    statement, auctions = play(env, agent, seed)
    estimates: Any = env.env
    base: AuctionEnv = estimates.unwrapped
    row = {**statement._asdict(), **_scores(base, statement), **_estimation(estimates)}
    bound = row["hindsight"]
    row["share_of_hindsight"] = statement.expected_net_value / bound if bound > 0 else np.nan
    row |= env.totals()
    events = event_table(base)
    curves = [estimates.online.curves(), delay_curves(events), price_curves(auctions)]
    return Tables(
        pd.DataFrame([row]),
        tick_table(base),
        pd.concat(curves, ignore_index=True),
        events,
        auctions,
    )


def _scores(base: AuctionEnv, statement: NetValueStatement) -> dict[str, Any]:
    """How well the campaign was paced, and its score by other simulators' rules."""
    spend, traffic = (
        base.world.ledger.series[0][:, COLUMN["spend"]],
        base.world.source.expected_traffic,
    )
    kept = statement.purchases - statement.refunds
    cost = cost_per_action(statement.spend, kept)
    return {
        "net_roas": statement.net_gmv / statement.spend if statement.spend > 0 else np.nan,
        "pacing_rmse": rmse_to_traffic(spend, statement.budget, traffic / traffic.sum()),
        "quickspend": is_quickspend(spend, statement.budget),
        "auctionnet_score": auctionnet_score(kept, base.campaign.targets.net_cpa, cost),
    }


def _estimation(env: EstimatesWrapper) -> dict[str, Any]:
    """The bound of hindsight, and how good the estimates were."""
    base: Any = env.unwrapped
    config = base.world.config
    if config.market.kind == "population":
        row = {"hindsight": hindsight_bound(base), "regret": np.nan, "share_of_best_choice": np.nan}
    else:
        loss = estimation_loss(env)
        row = {"hindsight": loss.hindsight, "regret": loss.regret}
        row["share_of_best_choice"] = loss.share
    row["learn_seconds_per_hour"] = env.seconds["learn"] / config.time.horizon_hours
    row["predict_ms_per_tick"] = 1e3 * env.seconds["predict"] / config.time.num_ticks
    for target, found in env.calibration().items():
        row[f"{target}_predicted"], row[f"{target}_observed"] = found.predicted, found.observed
    return row


def labelled(tables: Tables, labels: Mapping[str, Any]) -> Tables:
    """The tables with what names their campaign as first columns."""
    for table in tables:
        for place, (name, value) in enumerate(labels.items()):
            table.insert(place, name, value)
    return tables


def run(
    scenario: Scenario,
    agents: Sequence[str],
    seeds: Sequence[int],
    structures: Sequence[int] = (),
) -> Iterator[Tables]:
    """Plays every agent on every structure and seed; yields one campaign's tables at a time.

    All agents face the same traffic and, where they win, the same outcomes on a seed, and bid on
    what the platform shows. The structures default to the scenario's own.
    """
    for structure in structures or [scenario.world.structure_seed]:
        world = scenario.world.model_copy(update={"structure_seed": structure})
        env = make_metered_env(world, Stack())
        for seed in seeds:
            for name in agents:
                about = {"scenario": scenario.name, "agent": name, "estimates": "platform"}
                about |= {"structure": structure, "seed": seed}
                yield labelled(play_campaign(env, make_agent(name), seed), about)
