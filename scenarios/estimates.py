"""The loop closed: estimates are part of the observation, and learn from what the campaign sees.

`EstimatesWrapper` shows the estimates of a `Stack` with every observation of Auction-v0, and lets
it learn from windows of what was observed. A prediction is kept when it is made and scored when its
label matures; it is never made again.
"""

from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from adsim.env import AuctionEnv
from adsim.kernels import PRICE
from adsim.rng import derive, uniforms
from adsim.scores import fractional_knapsack
from adsim.types import FloatArray
from scenarios.observed import Calibration, LabelBook
from scenarios.online import LEARN_EVERY, LIMITS, OnlineEstimates
from scenarios.stack import Stack

EXPLORATION_STREAM = 103  # of rng: apart from every stream of a world


class EstimatesWrapper(gym.Wrapper[dict[str, Any], np.ndarray, dict[str, Any], np.ndarray]):
    """Auction-v0 with the estimates of a stack in the observation.

    Added are `ctr`, `cvr`, `refund_rate`, `gmv` and `expected_net_value`, (M,) each, see
    `Estimates`: every agent that bids on value bids on the last. The stack learns from past
    observations, `info["result"]` and `info["feedback"]`, and nothing else. Every `reset` starts
    from the stack that was handed over, which is never modified. Estimated rewards credit what the
    stack says.

    Args:
        env: Auction-v0, wrapped or not.
        stack: ready for the campaign. If it is privileged, so is the wrapper.
        learn_every: ticks per window that the stack learns from; the last one may be shorter.
            0: it does not learn.
        explore_share: share of the bids that are multiplied by a random factor, in [0, 1].
        explore_factor: the factor is log-uniform in [1 / explore_factor, explore_factor], >= 1.

    Attributes:
        online: the estimates, and what has become of them.
        explored: (M,) bids of the last tick that were multiplied.

    Raises:
        ValueError: another environment, or an argument out of range.
    """

    def __init__(
        self,
        env: gym.Env[Any, np.ndarray],
        stack: Stack,
        *,
        learn_every: int = LEARN_EVERY,
        explore_share: float = 0.0,
        explore_factor: float = 2.0,
    ) -> None:
        super().__init__(env)
        base = env.unwrapped
        if not isinstance(base, AuctionEnv):
            raise ValueError(f"env must be an Auction-v0, got {type(base).__name__}")
        if not (0 <= explore_share <= 1 and 1 <= explore_factor < np.inf):
            raise ValueError(
                "explore_share must be in [0, 1] and explore_factor in [1, inf), "
                f"got {explore_share} and {explore_factor}"
            )
        self._base = base
        self._terms = base.terms  # the campaign's, which are the same in all episodes
        self.online = OnlineEstimates(stack, base.world.config, learn_every)
        self.privileged = stack.privileged
        self.explore_share, self.explore_factor = explore_share, explore_factor
        self._exploration_seed = 0
        shape = (base.world.num_slots,)
        boxes = {k: spaces.Box(0.0, top, shape, np.float64) for k, top in LIMITS.items()}
        shown: Any = env.observation_space
        self.observation_space = spaces.Dict({**shown.spaces, **boxes})

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Starts an episode with the stack as it was handed over."""
        obs, info = self.env.reset(seed=seed, options=options)
        origin = self._exploration_seed if seed is None else seed
        self._exploration_seed = derive(origin, EXPLORATION_STREAM)
        self.online.restart(self._base.oracle())
        self.explored = np.zeros(self._base.world.num_slots, bool)
        return self._with_estimates(obs), info

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Plays a tick with bids (M,), learns if it is time, and estimates the next tick."""
        bids, online = self._explore(action), self.online
        self._base.credit(online.click_values())
        obs, reward, terminated, truncated, info = self.env.step(bids)
        over = terminated or truncated
        online.follow(info["result"], info["feedback"], self.explored, over)
        return self._with_estimates(obs), float(reward), terminated, truncated, info

    @property
    def stack(self) -> Stack:
        """As learned so far."""
        return self.online.stack

    @property
    def book(self) -> LabelBook:
        """Predictions and labels of the episode."""
        return self.online.book

    @property
    def values(self) -> list[FloatArray]:
        """Expected net value (n,) of all requests of each tick so far, currency."""
        return self.online.values

    @property
    def seconds(self) -> dict[str, float]:
        """Spent in learning and in predicting, this episode."""
        return self.online.seconds

    @property
    def now_hours(self) -> float:
        """Hours of the campaign played so far."""
        return self.online.now_hours

    def calibration(self, explored: bool | None = None) -> dict[str, Calibration]:
        """Predictions against the labels that have matured so far; see `LabelBook`."""
        return self.online.calibration(explored)

    def _with_estimates(self, obs: dict[str, Any]) -> dict[str, Any]:
        said = self.online.estimate(obs)
        return {**obs, **{k: v.copy() for k, v in said._asdict().items()}}

    def _explore(self, bids: np.ndarray) -> np.ndarray:
        """The bids (M,), some multiplied by a random factor, at most the highest bid."""
        bids, highest = np.asarray(bids, np.float64), self._terms.max_bid
        shown = self.online.shown
        if not self.explore_share or bids.shape != shown.mask.shape:  # the latter is refused
            return bids
        draws = uniforms(self._exploration_seed, EXPLORATION_STREAM, shown.impression_id)
        chosen = (draws[:, 0] < self.explore_share) & (shown.mask > 0)
        self.explored = chosen & (bids <= highest)  # others are refused, too
        factor = self.explore_factor ** (2 * draws[:, 1] - 1)
        return np.where(self.explored, np.minimum(bids * factor, highest), bids)


class EstimationLoss(NamedTuple):
    """What the errors of the estimates cost with perfect pacing, expected net value, currency."""

    hindsight: float  # of the best choice of auctions, by the truth
    chosen: float  # of the choice that is best by the estimates, valued by the truth
    regret: float  # hindsight - chosen, >= 0
    share: float  # chosen / hindsight; NaN if that is 0


def estimation_loss(env: EstimatesWrapper) -> EstimationLoss:
    """Regret of an episode's estimates against the truth. Privileged: for results only.

    Both choose auctions at the episode's prices within the budget (`fractional_knapsack`), one by
    true expectations, one by the estimates as they were when bids were made. A common factor on all
    estimates costs little: the budget's multiplier makes up for it.

    Raises:
        RuntimeError: the campaign is not over.
        ValueError: a population market, whose prices depend on the bids.
    """
    base: Any = env.unwrapped
    world = base.world
    if len(env.values) < world.num_ticks or world.tick[0] < world.num_ticks:
        raise RuntimeError("estimation_loss: the campaign is not over yet")
    config = world.config
    if config.market.kind == "population":
        raise ValueError("estimation_loss is not defined in a population market")
    net_value, cost = _true_market(world)
    estimated = np.concatenate(env.values) * float(np.max(config.market.exposure))
    plan = fractional_knapsack(estimated, cost, config.campaign.budget)
    best = fractional_knapsack(net_value, cost, config.campaign.budget).net_value
    chosen = float(plan.allocation @ (net_value - cost))
    return EstimationLoss(best, chosen, best - chosen, chosen / best if best else np.nan)


def _true_market(world: Any) -> tuple[FloatArray, FloatArray]:
    """True expected net value and cost (N,) of winning each auction of the episode."""
    rows, tick, parts = np.array([0]), world.tick.copy(), []
    market, reserve = world.config.market, world.config.market.reserve
    exposure = float(np.max(market.exposure))
    for t in range(world.num_ticks):
        drawn = world.empty_draw()
        tick[0] = t
        world.source.draw(rows, world.seeds, tick, drawn)
        n = int(drawn.filled[0])
        truth = world.source.truth(rows, tick, drawn)[:, 0, :n]
        price = np.maximum(drawn.floats[PRICE, 0, :n], reserve)
        parts.append((truth[0] * truth[4], world.cost_ratio(drawn, 0) * price))
    net_gmv, cost = (np.concatenate(part) for part in zip(*parts, strict=True))
    return world.config.campaign.margin * exposure * net_gmv, exposure * cost
