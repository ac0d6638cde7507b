"""What bidders see: observations, actions and infos of E worlds, for both environments.

A view never touches pending events or the truth: it reads the impressions of the current tick, the
platform's estimates, and the ledger of what has been seen.
"""

from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from adsim.kernels import CONTEXT, ITEM, PCTR, PCTR_STD, PCVR, PCVR_STD, TIME, VALUE
from adsim.ledger import COLUMN
from adsim.traffic import tick_hours_of_week
from adsim.types import AuctionResult, BoolArray, Campaign, EventBatch, FloatArray, IntArray
from adsim.world import TickOutcome, World

MAX_MONEY = 1e12  # finite upper bound of money in observation spaces, currency
_LAST = {
    "last_spend": [COLUMN["spend"]],
    "last_wins": [COLUMN["wins"]],
    "last_clicks": [COLUMN["clicks"]],
    "last_purchases": [COLUMN["gmv"]],
    "last_refunds": [COLUMN["refunded"]],
}


def reward_terms(world: World, outcome: TickOutcome | None) -> dict[str, FloatArray]:
    """Named terms (E,) that sum to the reward, currency."""
    if outcome is None:
        zero = np.zeros(world.num_worlds)
        return {"purchases": zero, "refunds": zero.copy(), "spend": zero.copy()}
    margin = world.config.campaign.margin
    if world.config.reward == "accrual":
        value = outcome.reward + outcome.spend
        return {"purchases": value, "refunds": np.zeros_like(value), "spend": -outcome.spend}
    return {
        "purchases": margin * outcome.counted[1],
        "refunds": -margin * outcome.counted[3],
        "spend": -outcome.spend,
    }


class AuctionView:
    """One bid per impression."""

    def __init__(self, world: World, campaign: Campaign) -> None:
        self.world, self.campaign = world, campaign
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
            }
        )

    def restart(self, worlds: IntArray) -> None:
        """New campaigns: nothing is remembered."""

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
        """Remembers what later observations need: nothing."""

    def get_state(self) -> dict[str, np.ndarray]:
        """Nothing is remembered."""
        return {}

    def set_state(self, state: dict[str, np.ndarray]) -> None:
        """Restores what `get_state` returned."""

    def observation(self) -> dict[str, Any]:
        """Dict of arrays with a leading axis E."""
        world = self.world
        floats, ints = world.drawn.floats, world.drawn.ints
        features, scene = world.source.features(np.arange(world.num_worlds), world.drawn)
        mask = np.arange(world.num_slots) < world.drawn.filled[:, None]
        last = world.ledger.recent(world.tick)[:, 0]
        return {
            "features": features,
            "scene": scene,
            "mask": mask.astype(np.int8),
            "time_hours": floats[TIME],
            "pctr": floats[PCTR],
            "pctr_std": floats[PCTR_STD],
            "pcvr": floats[PCVR],
            "pcvr_std": floats[PCVR_STD],
            "list_price": world.source.list_prices(ints[ITEM]) * mask,
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
            result[e] = AuctionResult(
                outcome.won[e], outcome.price[e], outcome.clicked[e], outcome.slot[e]
            )
        return {
            "feedback": feedback,
            "result": result,
            "reward_terms": reward_terms(world, outcome),
        }


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


class PacingFeatures(NamedTuple):
    """Entries of the Pacing-v0 observation, in order; each within [-1, 1] or [0, 1]."""

    time_left: FloatArray  # share of the ticks
    budget_left: FloatArray  # share of the budget
    spend_last: FloatArray  # last tick's spend against its traffic share of the budget, squashed
    spend_last_3: FloatArray  # the same over three ticks
    win_rate_last: FloatArray
    win_rate_last_3: FloatArray
    mean_value: FloatArray  # of this tick's impressions against the history's mean, squashed
    mean_value_won: FloatArray  # of the impressions won last tick, squashed
    price_q10: FloatArray  # of auctions won last tick against the history's mean value, squashed
    price_q50: FloatArray
    price_q90: FloatArray
    clicks_last_3: FloatArray  # clicks per won impression against the history's pCTR, squashed
    impressions: FloatArray  # of this tick, share of the slots
    expected_traffic: FloatArray  # of this tick, share of the highest
    hour_sin: FloatArray
    hour_cos: FloatArray
    week_sin: FloatArray
    week_cos: FloatArray
    pending_value: FloatArray  # margin x net GMV seen with open refund windows / budget, squashed
    matured_value: FloatArray  # (margin x matured net GMV - spend) / budget, squashed
    refund_share: FloatArray  # seen refunds / seen purchases, in money
    last_action: FloatArray  # mean over the action's components


PACING_SIZE = len(PacingFeatures._fields)


_SIGNED = (
    "hour_sin",
    "hour_cos",
    "week_sin",
    "week_cos",
    "pending_value",
    "matured_value",
    "last_action",
)
# Entries mapped by x / (1 + |x|), which keeps sign and order and is bounded by 1.
_SQUASHED = np.array([2, 3, 6, 7, 8, 9, 10, 11, 18, 19])
_QUANTILES = np.array([0.1, 0.5, 0.9])
_SPEND, _WINS, _CLICKS = COLUMN["spend"], COLUMN["wins"], COLUMN["clicks"]
_PACING_INFO = {
    name: COLUMN[name] for name in ("impressions", "wins", "clicks", "spend", "gmv", "refunded")
}


class PacingView:
    """One multiplier on the value estimate (or one per scene) per tick.

    Args:
        world: what is played.
        campaign: its terms.
        per_scene: one action component per scene instead of one for all.
        value_source: value estimates (E, M), currency per shown impression; the platform's
            pctr x pcvr x list price x margin by default.
    """

    def __init__(
        self, world: World, campaign: Campaign, *, per_scene: bool = False, value_source: Any = None
    ) -> None:
        self.world, self.campaign = world, campaign
        self.value_source = value_source
        self.size = world.source.num_scenes if per_scene else 1
        low = np.array([-1.0 if name in _SIGNED else 0.0 for name in PacingFeatures._fields])
        self.observation_space = spaces.Box(
            low.astype(np.float32), np.float32(1.0), dtype=np.float32
        )
        self.action_space = spaces.Box(-1.0, 1.0, (self.size,), np.float32)
        history = campaign.price_history
        known = np.isfinite(history.value)
        mean = (
            np.average(history.value[known], weights=history.weight[known]) if known.any() else 0.0
        )
        self._value_scale = float(mean) if mean > 0 else 1.0
        self._ctr_scale = history.ctr if history.ctr > 0 else 1.0
        hour = tick_hours_of_week(world.config)
        angles = np.stack([hour * (2 * np.pi / 24), hour * (2 * np.pi / 168)])
        waves = [np.sin(angles[0]), np.cos(angles[0]), np.sin(angles[1]), np.cos(angles[1])]
        self._waves = np.stack(waves, axis=1)
        traffic = campaign.expected_traffic
        plan = np.concatenate([[0.0], np.cumsum(campaign.budget * traffic / traffic.sum())])
        ends = np.arange(plan.size)
        # Planned spend of the last and of the last three ticks, when `tick` ticks are over.
        self._plan = np.stack([plan[ends] - plan[np.maximum(ends - k, 0)] for k in (1, 3)])
        self._plan[:, 0] = 1.0  # nothing was spent before the first tick
        self._traffic = traffic / traffic.max()
        # Value won, three price quantiles and action of the last tick.
        self.memory = np.zeros((world.num_worlds, 5))

    def restart(self, worlds: IntArray) -> None:
        """New campaigns: nothing is remembered."""
        self.memory[worlds] = 0.0

    def values(self) -> FloatArray:
        """Value estimates (E, M), currency per shown impression; 0 in padding."""
        if self.value_source is not None:
            return self.value_source(self.world)
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
        checked = action[playing]
        if not (checked.min() >= -1.0 and checked.max() <= 1.0):
            wrong = checked[~(np.abs(checked) <= 1.0)][0]
            raise ValueError(f"action must be in [-1, 1], got {wrong}")
        factor = world.config.campaign.max_multiplier**action
        self.memory[playing, 4] = checked.mean(axis=1)
        values = self.values()
        if self.size > 1:
            factor = np.take_along_axis(
                factor, world.source.scenes(world.drawn.ints[CONTEXT]), axis=1
            )
        bids = values * factor
        if self.campaign.charge == "click":
            pctr = world.drawn.floats[PCTR]
            bids = np.divide(bids, pctr, out=np.zeros_like(bids), where=pctr > 0)
        return np.minimum(bids, self.campaign.max_bid, out=bids)

    def get_state(self) -> dict[str, np.ndarray]:
        """What the last tick left behind."""
        return {"memory": self.memory.copy()}

    def set_state(self, state: dict[str, np.ndarray]) -> None:
        """Restores what `get_state` returned."""
        self.memory = state["memory"].copy()

    def before(self) -> None:
        """Keeps the values of the tick about to be played."""
        self._played_values = self.values()

    def note(self, outcome: TickOutcome, worlds: IntArray) -> None:
        """Remembers price quantiles and mean value of what was won."""
        wins = np.count_nonzero(outcome.won, axis=1)
        prices = np.where(outcome.won, outcome.price, np.inf)
        prices.sort(axis=1)
        position = (wins[:, None] * _QUANTILES).astype(np.int64)
        found = prices[np.arange(wins.size)[:, None], np.minimum(position, prices.shape[1] - 1)]
        self.memory[worlds, 1:4] = np.where(wins[:, None] > 0, found, 0.0)[worlds]
        value = np.einsum("em,em->e", self._played_values, outcome.won)
        self.memory[worlds, 0] = (value / np.maximum(wins, 1))[worlds]

    def observation(self) -> NDArray[np.float32]:
        """(E, PACING_SIZE) float32."""
        world, ledger, tick = self.world, self.world.ledger, self.world.tick
        budget, margin, scale = self.campaign.budget, self.campaign.margin, self._value_scale
        recent = ledger.recent(tick)
        last, three = recent[:, 0], recent.sum(axis=1)
        now, left = np.minimum(tick, world.num_ticks - 1), world.budget_left[:, 0]
        out = np.empty((tick.size, PACING_SIZE))
        out[:, 0] = 1.0 - tick / world.num_ticks
        out[:, 1] = left / budget
        out[:, 2] = last[:, _SPEND] / self._plan[0, tick]
        out[:, 3] = three[:, _SPEND] / self._plan[1, tick]
        out[:, 4] = last[:, _WINS] / np.maximum(last[:, 0], 1.0)
        out[:, 5] = three[:, _WINS] / np.maximum(three[:, 0], 1.0)
        count = np.maximum(world.drawn.filled, 1)
        out[:, 6] = self.values().sum(axis=1) / (count * scale)
        out[:, 7:11] = self.memory[:, :4] / scale
        out[:, 11] = three[:, _CLICKS] / (np.maximum(three[:, _WINS], 1.0) * self._ctr_scale)
        out[:, 12] = world.drawn.filled / world.num_slots
        out[:, 13] = self._traffic[now] * (tick < world.num_ticks)
        out[:, 14:18] = self._waves[now]
        out[:, 18] = (margin / budget) * ledger.pending_net_gmv()
        out[:, 19] = (margin * ledger.matured_net_gmv - budget + left) / budget
        out[:, 20] = ledger.seen_refunded / np.maximum(ledger.seen_gmv, 1e-12)
        out[:, 21] = self.memory[:, 4]
        out[:, _SQUASHED] /= 1.0 + np.abs(out[:, _SQUASHED])
        np.maximum(out, self.observation_space.low, out=out)
        return np.minimum(out, 1.0, out=out).astype(np.float32)

    def info(self, outcome: TickOutcome | None, worlds: IntArray) -> dict[str, Any]:
        """Batched infos: fixed keys, arrays (E,)."""
        world = self.world
        last = world.ledger.recent(world.tick)[:, 0]
        infos: dict[str, Any] = {name: last[:, column] for name, column in _PACING_INFO.items()}
        infos["net_value"] = world.ledger.net_value.copy()
        infos["reward_terms"] = reward_terms(world, outcome)
        return infos
