"""What bidders see: observations, actions and infos of E worlds, for both environments.

A view never touches pending events or the truth: it reads the impressions of the current tick, the
platform's estimates, and the ledger of what has been seen.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from adsim.kernels import CONTEXT, ITEM, PCTR, PCTR_STD, PCVR, PCVR_STD, TIME, VALUE
from adsim.ledger import COLUMN
from adsim.outcome import TickOutcome
from adsim.pacing_features import (
    PACING_SIZE,
    SIGNED,
    PacingFeatures,
    history_scales,
    pacing_features,
    pacing_scales,
    won_summary,
)
from adsim.rng import ID_STRIDE
from adsim.traffic import tick_hours_of_week
from adsim.types import (
    AuctionResult,
    BoolArray,
    Campaign,
    EventBatch,
    FloatArray,
    Impressions,
    IntArray,
)
from adsim.value_source import ValueSource, click_values
from adsim.world import World

MAX_MONEY = 1e12  # finite upper bound of money in observation spaces, currency
_SHOWN_ROWS = [TIME, PCTR, PCTR_STD, PCVR, PCVR_STD]
_LAST = {
    "last_spend": [COLUMN["spend"]],
    "last_wins": [COLUMN["wins"]],
    "last_clicks": [COLUMN["clicks"]],
    "last_gmv": [COLUMN["gmv"]],
    "last_refunded": [COLUMN["refunded"]],
}


def reward_terms(world: World, outcome: TickOutcome | None) -> dict[str, FloatArray]:
    """Named terms (E,) that sum to the reward, currency."""
    if outcome is None:
        estimated = world.config.reward == "estimated"
        names = ("credit", "correction") if estimated else ("purchases", "refunds")
        return {name: np.zeros(world.num_worlds) for name in (*names, "spend")}
    margin = world.config.campaign.margin
    if world.config.reward == "estimated":
        terms = zip(("credit", "correction"), outcome.credit, strict=True)
        return {**dict(terms), "spend": 0.0 - outcome.spend}
    if world.config.reward == "accrual":
        value = outcome.reward + outcome.spend
        return {"purchases": value, "refunds": np.zeros_like(value), "spend": 0.0 - outcome.spend}
    return {
        "purchases": margin * outcome.counted[1],
        "refunds": 0.0 - margin * outcome.counted[3],  # 0.0 - x: nothing is 0.0, never -0.0
        "spend": 0.0 - outcome.spend,
    }


class AuctionView:
    """One bid per impression.

    Args:
        world: what is played.
        campaign: its terms.
        value_source: its estimates are part of the observation; none by default.
    """

    def __init__(
        self, world: World, campaign: Campaign, value_source: ValueSource | None = None
    ) -> None:
        self.world, self.campaign, self.value_source = world, campaign, value_source
        self._estimates: dict[str, FloatArray] | None = None  # of the tick to be played
        self._handed: FloatArray | None = None
        m, source = world.num_slots, world.source
        horizon = world.config.time.horizon_hours
        unit = spaces.Box(0.0, 1.0, (m,), np.float64)
        noise = spaces.Box(0.0, 1e3, (m,), np.float64)
        sizes = np.broadcast_to(np.array(source.cardinalities) - 1, (m, len(source.cardinalities)))
        budget = world.config.campaign.budget
        self.action_space = spaces.Box(0.0, campaign.max_bid, (m,), np.float64)
        self.observation_space = spaces.Dict(
            {
                "features": spaces.Box(0, sizes.astype(np.int32), dtype=np.int32),
                "scene": spaces.Box(0, source.num_scenes - 1, (m,), np.int32),
                "mask": spaces.MultiBinary(m),
                "time_hours": spaces.Box(0.0, horizon, (m,), np.float64),
                "pctr": unit,
                "pctr_std": noise,
                "pcvr": unit,
                "pcvr_std": noise,
                "list_price": spaces.Box(0.0, MAX_MONEY, (m,), np.float64),
                "tick_fraction": spaces.Box(0.0, 1.0, (1,), np.float64),
                "budget_left": spaces.Box(0.0, budget, (1,), np.float64),
                **{name: spaces.Box(0.0, MAX_MONEY, (1,), np.float64) for name in _LAST},
                **{name: spaces.Box(0.0, top, (m,), np.float64) for name, top in self._limits()},
            }
        )

    def _limits(self) -> list[tuple[str, float]]:
        return [] if self.value_source is None else list(self.value_source.limits.items())

    @property
    def privileged(self) -> bool:
        """Whether the value source is."""
        return self.value_source is not None and self.value_source.privileged

    def restart(self, worlds: IntArray) -> None:
        """New campaigns: nothing is remembered."""
        self._estimates = self._handed = None
        if self.value_source is not None:
            self.value_source.restart(worlds)

    def estimates(self, obs: Mapping[str, Any] | None = None) -> dict[str, FloatArray]:
        """What the value source says of the tick to be played, (E, M) each; asked once.

        Args:
            obs: the observation without them, if it is at hand.
        """
        assert self.value_source is not None
        if self._estimates is None:
            shown = self._platform() if obs is None else obs
            self._estimates = self.value_source.estimate(shown, self.world.tick)
        return self._estimates

    def credit(self, click_values: FloatArray) -> None:
        """Predicted net value of a click (E, M) that the next tick's estimated rewards credit."""
        self._handed = click_values

    def click_values(self) -> FloatArray | None:
        """The same (E, M): as handed over, or by the value source; None: as the platform says."""
        if self.world.config.reward != "estimated" or self._handed is not None:
            return self._handed
        return None if self.value_source is None else click_values(self.estimates())

    def bids(self, actions: Any, playing: BoolArray) -> FloatArray:
        """Validated bids (E, M); rows of worlds that do not play are ignored.

        Raises:
            ValueError: wrong shape, NaN, negative or above the highest bid.
        """
        bids = np.asarray(actions, dtype=np.float64)
        shape = (self.world.num_worlds, self.world.num_slots)
        if bids.shape != shape:
            raise ValueError(f"action: bids must have shape {shape}, got {bids.shape}")
        checked = bids if playing.all() else bids[playing]
        low, high = checked.min(), checked.max()
        if not (low >= 0.0 and high <= self.campaign.max_bid):
            wrong = checked[~((checked >= 0) & (checked <= self.campaign.max_bid))][0]
            raise ValueError(f"action: bids must be in [0, {self.campaign.max_bid:g}], got {wrong}")
        return np.ascontiguousarray(bids)

    def before(self) -> None:
        """Called before a tick is played: nothing to keep."""

    def note(self, outcome: TickOutcome, worlds: IntArray) -> None:
        """The value source learns from a tick, of the worlds (W,) that played it."""
        self._estimates = self._handed = None
        if self.value_source is not None:
            self.value_source.note(outcome, self.world.tick - 1)

    def get_state(self) -> dict[str, np.ndarray]:
        """Nothing is remembered."""
        return {}

    def set_state(self, state: dict[str, np.ndarray]) -> None:
        """Restores what `get_state` returned."""
        self._estimates = self._handed = None
        if self.value_source is not None:
            self.value_source.resume(self.world.tick)

    def observation(self) -> dict[str, Any]:
        """Dict of arrays with a leading axis E."""
        obs = self._platform()
        if self.value_source is not None:
            obs |= {name: array.copy() for name, array in self.estimates(obs).items()}
        return obs

    def _platform(self) -> dict[str, Any]:
        """The observation without estimates."""
        world = self.world
        # A copy: the block also holds what a bidder must not see, or change.
        shown = world.drawn.floats[_SHOWN_ROWS]
        features, scene = world.source.features(np.arange(world.num_worlds), world.drawn)
        mask = np.arange(world.num_slots) < world.drawn.filled[:, None]
        last = world.recent()[:, 0]
        return {
            "features": features,
            "scene": scene,
            "mask": mask.astype(np.int8),
            "time_hours": shown[0],
            "pctr": shown[1],
            "pctr_std": shown[2],
            "pcvr": shown[3],
            "pcvr_std": shown[4],
            "list_price": world.source.list_prices(world.drawn.ints[ITEM]) * mask,
            "tick_fraction": (world.tick / world.num_ticks)[:, None],
            "budget_left": world.budget_left[:, :1].copy(),
            **{name: last[:, column] for name, column in _LAST.items()},
        }

    def info(self, outcome: TickOutcome | None, worlds: IntArray) -> dict[str, Any]:
        """Batched infos: object arrays of records, and a dict of reward terms."""
        world = self.world
        feedback = np.full(world.num_worlds, None, dtype=object)
        result = np.full(world.num_worlds, None, dtype=object)
        nothing = outcome is None
        for e in range(world.num_worlds):
            if nothing:
                feedback[e], result[e] = empty_events(), empty_result(world.num_slots)
                continue
            feedback[e] = outcome.events(e, int(world.tick[e]) - 1)
            result[e] = outcome.result(e)
        return {
            "feedback": feedback,
            "result": result,
            "reward_terms": reward_terms(world, outcome),
        }


def shown_impressions(obs: Mapping[str, Any], tick: int) -> Impressions:
    """The bid requests (M,) of an observation of Auction-v0, of a tick."""
    columns = [np.asarray(obs[name]) for name in ("time_hours", "features", "scene", "mask")]
    return Impressions(tick * ID_STRIDE + np.arange(columns[0].size), *columns)


def rows_of(records: Any, rows: Any) -> Any:
    """The given rows of a NamedTuple of arrays; what is no array stays."""
    columns = ((n, c) for n, c in records._asdict().items() if isinstance(c, np.ndarray))
    return records._replace(**{name: column[rows] for name, column in columns})


def empty_events() -> EventBatch:
    """No events."""
    return EventBatch(
        np.zeros(0, np.int64),
        np.zeros(0),
        np.zeros(0, np.int8),
        np.zeros(0, np.int64),
        np.zeros(0, np.int16),
        np.zeros(0),
    )


def empty_result(num_slots: int) -> AuctionResult:
    """Nothing won, nothing revealed."""
    return AuctionResult(
        np.zeros(num_slots, bool),
        np.full(num_slots, np.inf),
        np.zeros(num_slots, bool),
        np.full(num_slots, -1, np.int8),
    )


_PACING_INFO = {
    name: COLUMN[name] for name in ("impressions", "wins", "clicks", "spend", "gmv", "refunded")
}


class PacingView:
    """One multiplier on the value estimate (or one per scene) per tick.

    Args:
        world: what is played.
        campaign: its terms.
        per_scene: one action component per scene instead of one for all.
        value_source: of the estimates; the platform's pctr x pcvr x list price x margin by default.
    """

    def __init__(
        self,
        world: World,
        campaign: Campaign,
        *,
        per_scene: bool = False,
        value_source: ValueSource | None = None,
    ) -> None:
        self.world, self.campaign = world, campaign
        self._shown = AuctionView(world, campaign, value_source)
        self.privileged, self.click_values = self._shown.privileged, self._shown.click_values
        self.size = world.source.num_scenes if per_scene else 1
        low = np.array([-1.0 if name in SIGNED else 0.0 for name in PacingFeatures._fields])
        self.observation_space = spaces.Box(
            low.astype(np.float32), np.float32(1.0), dtype=np.float32
        )
        self.action_space = spaces.Box(-1.0, 1.0, (self.size,), np.float32)
        self.scales = pacing_scales(
            campaign, tick_hours_of_week(world.config), history_scales(campaign.price_history)
        )
        # Value won, three price quantiles and action of the last tick.
        self.memory = np.zeros((world.num_worlds, 5))

    def restart(self, worlds: IntArray) -> None:
        """New campaigns: nothing is remembered."""
        self.memory[worlds] = 0.0
        self._shown.restart(worlds)

    def values(self) -> FloatArray:
        """Value estimates (E, M), currency per shown impression; 0 in padding."""
        if self._shown.value_source is not None:
            return self._shown.estimates()["expected_net_value"]
        return self.world.drawn.floats[VALUE]

    def bids(self, actions: Any, playing: BoolArray) -> FloatArray:
        """Bids (E, M) = value x max_multiplier ** action, at most the highest bid.

        Raises:
            ValueError: wrong shape, NaN or outside [-1, 1].
        """
        world = self.world
        action = np.asarray(actions, dtype=np.float64)
        if action.shape != (world.num_worlds, self.size):
            raise ValueError(
                f"action must have shape {(world.num_worlds, self.size)}, got {action.shape}"
            )
        checked = action if playing.all() else action[playing]
        if not (checked.min() >= -1.0 and checked.max() <= 1.0):
            wrong = checked[~(np.abs(checked) <= 1.0)][0]
            raise ValueError(f"action must be in [-1, 1], got {wrong}")
        factor = world.config.campaign.max_multiplier**action
        self.memory[playing, 4] = checked[:, 0] if self.size == 1 else checked.mean(axis=1)
        values = self.values()
        if self.size > 1:
            factor = np.take_along_axis(
                factor, world.source.scenes(world.drawn.ints[CONTEXT]), axis=1
            )
        bids = values * factor
        if self.campaign.charge == "click":
            own = self._shown.value_source is not None  # then it says the CTR of the value, too
            ctr = self._shown.estimates()["ctr"] if own else world.drawn.floats[PCTR]
            bids = np.divide(bids, ctr, out=np.zeros_like(bids), where=ctr > 0)
        return np.minimum(bids, self.campaign.max_bid, out=bids)

    def get_state(self) -> dict[str, np.ndarray]:
        """What the last tick left behind."""
        return {"memory": self.memory.copy()}

    def set_state(self, state: dict[str, np.ndarray]) -> None:
        """Restores what `get_state` returned."""
        self.memory = state["memory"].copy()
        self._shown.set_state({})

    def before(self) -> None:
        """Keeps the values of the tick about to be played."""
        self._played_values = self.values()

    def note(self, outcome: TickOutcome, worlds: IntArray) -> None:
        """Remembers price quantiles and mean value of what was won."""
        self._shown.note(outcome, worlds)
        won_summary(worlds, outcome.won, outcome.price, self._played_values, self.memory)

    def observation(self) -> NDArray[np.float32]:
        """(E, PACING_SIZE) float32."""
        world, ledger = self.world, self.world.ledger
        out = np.empty((world.num_worlds, PACING_SIZE), dtype=np.float32)
        pacing_features(
            *(world.tick, world.num_ticks, world.recent(), world.budget_left[:, 0]),
            *(self.campaign.budget, self.campaign.margin),
            *self.scales,
            *(world.drawn.filled, self.values(), self.memory),
            *(ledger.seen_gmv, ledger.seen_refunded, ledger.matured_net_gmv),
            out,
        )
        return out

    def info(self, outcome: TickOutcome | None, worlds: IntArray) -> dict[str, Any]:
        """Batched infos: fixed keys, arrays (E,)."""
        world = self.world
        last = world.recent()[:, 0]
        infos: dict[str, Any] = {name: last[:, column] for name, column in _PACING_INFO.items()}
        infos["net_value"] = world.ledger.net_value.copy()
        infos["reward_terms"] = reward_terms(world, outcome)
        return infos
