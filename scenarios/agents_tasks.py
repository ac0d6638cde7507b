"""Campaigns of `adsim bench agents`: which are played, with what targets, and what is kept of them.

A play leaves `<out>/<scenario>/<estimates>/<agent>-<constraint>-<seed>.json`, written at once, and
is played again only if its settings are others.
"""

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

from adsim.config import TargetsConfig
from adsim.env import AuctionEnv
from adsim.types import EventKind, FloatArray
from scenarios.bounds import constrained_bound
from scenarios.build import make_agent, make_world
from scenarios.comparison import TUNING_SEED
from scenarios.estimates import EstimatesWrapper
from scenarios.results import jsonable, save_json
from scenarios.run import hindsight_bound, make_bounded_env, play
from scenarios.rungs import HistoryConfig, needs_warm_up
from scenarios.schema import Scenario, load
from scenarios.stacks import make_stack
from scenarios.version import code_digest
from scenarios.warmup import WarmUp

CONSTRAINTS = ("budget", "cpc", "net_cpa", "net_roas")
"""Of a campaign: its budget alone, or with one target of `adsim.types.Targets`."""
TARGET_OF = {"dual_cpc": "cpc", "dual_cpa": "net_cpa", "dual_roas": "net_roas"}
"""The one target that an agent steers by. The bids of all others do not depend on targets."""
BOUND = "hindsight"
PLAYERS = (
    *("dual", "dual_cpc", "dual_cpa", "dual_roas", "pid", "adaptive", "shading", "linear"),
    *("ortb2", "ortb1", "mcpc", "value", BOUND),
)
"""Agents in the order of the tables; the bound is no campaign but a linear programme."""
TIGHTER = 0.8  # caps are this share of what pacing by exact estimates pays; returns 1 / it
TUNING_SEEDS = tuple(range(TUNING_SEED, TUNING_SEED + 3))
SIZE = HistoryConfig()  # of the warm-up


class Play(NamedTuple):
    """One agent in one campaign."""

    scenario: str  # name or .toml file
    estimates: str  # in `STACKS`
    agent: str  # in `PLAYERS`
    constraint: str  # whose target the agent is told
    seed: int

    @property
    def label(self) -> str:
        """The scenario without folder and ending."""
        return Path(self.scenario).name.removesuffix(".toml")

    def file(self, out: Path) -> Path:
        """Where the result is kept."""
        name = f"{self.agent}-{self.constraint}-{self.seed}.json"
        return out / self.label / self.estimates / name


class Targets(NamedTuple):
    """Targets of a scenario, one per constrained campaign."""

    cpc: float  # currency per click
    net_cpa: float  # currency per kept conversion
    net_roas: float  # net GMV per currency

    def credit(self, constraint: str, sums: Any) -> float:
        """What outcomes allow to be spent, currency; `sums` has clicks, kept and net_gmv."""
        if constraint == "cpc":
            return self.cpc * sums["clicks"]
        if constraint == "net_cpa":
            return self.net_cpa * sums["kept"]
        return sums["net_gmv"] / self.net_roas


class KeptMeter(gym.Wrapper[Any, np.ndarray, Any, np.ndarray]):
    """Sums the expected kept conversions of what is won. Privileged: for results only."""

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        """Starts at 0."""
        self.expected_kept = 0.0
        return self.env.reset(**options)

    def step(self, action: np.ndarray) -> Any:
        """Adds P(click) P(conversion) (1 - P(refund)) of the impressions won."""
        base: Any = self.env.unwrapped
        truth = base.oracle().truth()  # (M,) of the tick about to be played
        outcome = self.env.step(action)
        kept = truth.p_click * truth.p_convert * (1.0 - truth.p_refund)
        self.expected_kept += float(np.sum(kept, where=outcome[-1]["result"].won))
        return outcome


def plan(
    scenarios: Sequence[str],
    estimates: str,
    constraints: Sequence[str],
    players: Sequence[str],
    seeds: Sequence[int],
) -> list[Play]:
    """The campaigns to be played, scenario by scenario.

    Who steers by no target is played once, for all constraints; who steers by one is played with
    it only: without, it paces the budget.
    """
    plays = []
    for scenario in scenarios:
        population = load(scenario).world.market.kind == "population"
        for seed in seeds:
            for agent in players:
                told = ("budget",)
                if agent in TARGET_OF:
                    told = tuple(c for c in constraints if c == TARGET_OF[agent])
                elif agent == BOUND:  # whose prices depend on the bids in a population
                    told = () if population else constraints
                plays += [Play(scenario, estimates, agent, c, seed) for c in told]
    return plays


def tuning_plays(scenarios: Sequence[str]) -> list[Play]:
    """The campaigns that targets are found with."""
    seeds = TUNING_SEEDS
    return [Play(scenario, "oracle", "dual", "budget", s) for scenario in scenarios for s in seeds]


def found_targets(rows: Sequence[dict[str, Any]]) -> Targets:
    """Targets that bind: what the tuning campaigns reached in expectation, tightened.

    Args:
        rows: results of `tuning_plays` of one scenario.

    Raises:
        ValueError: nothing was spent, or nothing is to be expected of it.
    """
    spend = sum(row["spend"] for row in rows)
    clicks, kept, net_gmv = (
        sum(row[f"expected_{name}"] for row in rows) for name in ("clicks", "kept", "net_gmv")
    )
    if min(spend, clicks, kept, net_gmv) <= 0:
        raise ValueError(
            f"scenario {rows[0]['scenario']}: no targets, as pacing spends {spend:g} for "
            f"{clicks:g} clicks, {kept:g} kept conversions and net GMV {net_gmv:g}"
        )
    exact = (TIGHTER * spend / clicks, TIGHTER * spend / kept, net_gmv / spend / TIGHTER)
    return Targets(*(float(f"{value:.3g}") for value in exact))


def scenario_of(play: Play, targets: Targets | None) -> Scenario:
    """The scenario of a play, with its target and without the scenario's own."""
    own = {}
    if play.constraint != "budget":
        assert targets is not None
        own = {play.constraint: getattr(targets, play.constraint)}
    scenario = load(play.scenario)
    campaign = scenario.world.campaign.model_copy(update={"targets": TargetsConfig(**own)})
    world = scenario.world.model_copy(update={"campaign": campaign})
    return scenario.model_copy(update={"world": world})


def settings_of(play: Play, targets: Targets | None) -> dict[str, Any]:
    """Everything that a result depends on."""
    world = scenario_of(play, targets).world.model_dump(mode="json")
    settings: dict[str, Any] = {**play._asdict(), "world": world}
    settings["code"] = code_digest("agents", "scenarios")
    if needs_warm_up(play.estimates):
        settings["history"] = SIZE.model_dump(mode="json")
    return json.loads(json.dumps(jsonable(settings)))


def read(play: Play, targets: Targets | None, out: Path) -> dict[str, Any] | None:
    """What `run` left, if it was with the same settings."""
    file = play.file(out)
    if not file.is_file():
        return None
    try:
        kept = json.loads(file.read_text("utf-8"))
        return kept if kept["settings"] == settings_of(play, targets) else None
    except (KeyError, TypeError, json.JSONDecodeError):  # not written by `run`
        return None


def warm_up(play: Play, cache: Path) -> WarmUp | None:
    """What the estimates of a play have learned from; None if they learn nothing before."""
    if not needs_warm_up(play.estimates):
        return None
    return WarmUp(load(play.scenario).world, SIZE, cache=cache)


def prepare(play: Play, cache: Path) -> None:
    """Trains the estimates of a play's scenario, unless they are in the cache."""
    make_stack(play.estimates, warm_up(play, cache))


def run(play: Play, targets: Targets | None, out: Path, cache: Path) -> None:
    """Plays a campaign, or solves for its bound, and writes the result."""
    about = {"settings": settings_of(play, targets)}
    row = _bound(play, targets) if play.agent == BOUND else _played(play, targets, cache)
    file = play.file(out)
    file.parent.mkdir(parents=True, exist_ok=True)
    save_json({**about, "row": {**play._asdict(), "scenario": play.label, **row}}, file)


@lru_cache(maxsize=2)
def _environment(play: Play, targets: Targets | None, cache: Path) -> KeptMeter:
    """Of all plays that differ in agent and seed only (both are left blank)."""
    env = make_bounded_env(scenario_of(play, targets).world)
    return KeptMeter(EstimatesWrapper(env, make_stack(play.estimates, warm_up(play, cache))))


def _played(play: Play, targets: Targets | None, cache: Path) -> dict[str, Any]:
    """Figures of a finished campaign: all feedback has come."""
    env = _environment(play._replace(agent="", seed=0), targets, cache)
    statement, _ = play_campaign(env, play)
    base: Any = env.unwrapped
    events, ledger = base.world.log.as_of(float("inf")), base.world.ledger
    bought, back = (
        int(np.count_nonzero((events.kind == kind) & (events.order_id == 0)))
        for kind in (EventKind.PURCHASE, EventKind.REFUND)
    )
    row = statement._asdict()
    expected_net_gmv = (statement.expected_net_value + statement.spend) / statement.margin
    row |= {
        "structure": base.world.config.structure_seed,
        "kept": bought - back,
        "expected_clicks": ledger.total("expected_clicks"),
        "expected_kept": env.expected_kept,
        "expected_net_gmv": expected_net_gmv,
    }
    if base.world.config.market.kind == "population":
        row["hindsight"] = hindsight_bound(base)  # at the prices of this very run
    return row


def play_campaign(env: KeptMeter, play_: Play) -> Any:
    """One campaign of a new agent: statement and sampled auctions."""
    return play(env, make_agent(play_.agent), play_.seed)


@lru_cache(maxsize=1)
def _market(scenario: str, seed: int) -> Any:
    """All auctions of an episode, with the structure of its world."""
    env = AuctionEnv(make_world(load(scenario).world))
    env.reset(seed=seed)
    return env.oracle().episode_market(), env.world.config


def _bound(play: Play, targets: Targets | None) -> dict[str, Any]:
    """The linear programme with the play's constraint, in expectation."""
    market, config = _market(play.scenario, play.seed)
    margin, budget = config.campaign.margin, config.campaign.budget
    credit: FloatArray | None = None
    if play.constraint != "budget":
        assert targets is not None
        sums = {"clicks": market.clicks, "kept": market.kept, "net_gmv": market.value / margin}
        credit = np.asarray(targets.credit(play.constraint, sums))
    best = constrained_bound(market, budget, credit)
    x = best.allocation
    return {
        "structure": config.structure_seed,
        "spend": best.spend,
        "budget": budget,
        "expected_net_value": best.net_value,
        "expected_clicks": float(x @ market.clicks),
        "expected_kept": float(x @ market.kept),
        "expected_net_gmv": float(x @ market.value) / margin,
    }
