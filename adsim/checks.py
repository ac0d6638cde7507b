"""Conformance checks of environments, agents and predictors, for this project's tests and users'.

Each check drives what a factory makes through short campaigns and raises `CheckError` at the first
broken rule, saying which rule, where, and what was found.
"""

from collections import namedtuple
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np

from adsim import kernels
from adsim.compare import CheckError, find_difference
from adsim.env import AuctionEnv, CampaignEnv
from adsim.feedback import push
from adsim.observation import rows_of, shown_impressions
from adsim.replay import ReplaySource
from adsim.rng import ID_STRIDE, generator
from adsim.types import EventKind, Impressions, IntArray, Target, Window
from adsim.world import World

_NOISE_STREAM = 101  # of rng.generator: apart from every stream of a world
_HIDDEN_ROWS = [kernels.P_CLICK, kernels.Z_CONVERT, kernels.PRICE]  # of Draw.floats
_HIDDEN_TOTALS = slice(kernels.EXPECTED_GMV, kernels.NUM_TOTALS)  # but for wins, spend, clicks
_DELAYED = (EventKind.PURCHASE, EventKind.REFUND)
_DROPPED = 0.3  # share of the pending events that the other future lacks
_Step = namedtuple("_Step", "obs reward terminated truncated info estimates")


def _require(condition: Any, message: str) -> None:
    if not condition:
        raise CheckError(message)


def _require_same(left: Any, right: Any, path: str, message: str) -> None:
    difference = find_difference(left, right, path)
    _require(difference is None, f"{message}: {difference}")


def _call(function: Callable[[Any], Any], argument: Any) -> Any:
    """Calls a method that must not modify its argument."""
    before, name = deepcopy(argument), function.__name__
    result = function(argument)
    _require_same(before, argument, "argument", f"{name}() modifies its argument")
    return result


class _OtherFuture:
    """A source that, while active, gives a world another future and another hidden truth.

    Everything due in the tick being played stays as it is. Replaced are: pending events and the
    future of the tick's clicks; the expectations booked in the ledger; price to beat and click and
    conversion effects of the next tick's impressions, whose visible entries stay; the seed, that
    is all later traffic; and in a replay the rows of the log that were not shown yet.
    """

    def __init__(self, world: World, rng: np.random.Generator) -> None:
        self._world, self._source, self._rng = world, world.source, rng
        self._log = world.source.log if isinstance(world.source, ReplaySource) else None
        self._active = False
        self.rewritten = 0  # pending events replaced so far

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def begin(self, tick: int) -> None:  # when the true state is restored, before the tick
        self._active = True
        self.rewritten += rewrite_future(self._world, tick, self._rng)
        if self._log is None:
            return
        rng, (click, price, theta) = self._rng, (column.copy() for column in self._log)
        hidden, unseen = (self._source.rows(0, tick + ahead).start for ahead in (1, 2))
        click[hidden:] = np.logical_not(click[hidden:])
        price[hidden:] += rng.integers(1, 100, price[hidden:].size)
        theta[unseen:] = rng.random(theta[unseen:].size)  # those of the next tick are shown
        self._source.log = self._log._replace(click=click, price=price, theta=theta)

    def end(self) -> None:  # after the tick
        self._active = False
        if self._log is not None:
            self._source.log = self._log

    def appraise(self, *arguments: Any) -> None:
        self._source.appraise(*arguments)
        if self._active:
            arguments[-1][:, _HIDDEN_TOTALS] += self._rng.random()

    def schedule(self, clicks: IntArray, seeds: Any, tick: IntArray, *rest: Any) -> None:
        self._source.schedule(clicks, seeds, tick, *rest)
        if self._active:
            rewrite_future(self._world, int(tick[0]), self._rng)

    def draw(self, worlds: IntArray, seeds: Any, tick: IntArray, out: kernels.Draw) -> None:
        self._source.draw(worlds, seeds, tick, out)
        if self._active:
            out.floats[_HIDDEN_ROWS] = self._rng.random((3, *out.floats.shape[1:]))
            self._world.seeds = seeds + np.uint64(1)
            if not self._world.config.randomize_structure:
                self._source.reset(worlds, self._world.seeds)


def rewrite_future(world: World, tick: int, rng: np.random.Generator) -> int:
    """Replaces the pending events of world 0 that are due after a tick; changes the world.

    Amounts, kinds, times and buckets are drawn anew, ids are shuffled, some events are dropped and
    some invented. In the last tick everything is due, and nothing changes.
    Returns how many true events were replaced.
    """
    queue, last = world.queue, world.num_ticks
    if tick >= last - 1:
        return 0
    world_0, first, end = (np.array([bucket]) for bucket in (0, tick + 1, last))
    pending = queue.release(world_0, first, end, np.zeros((3, 0), np.int64), np.zeros(0))
    kept = rng.permutation(pending.click_id[rng.random(pending.click_id.size) >= _DROPPED])
    invented = rng.integers(0, last * ID_STRIDE, 1 + kept.size // 2)
    queue.reserve(kept.size + invented.size)
    for click in [*kept.tolist(), *invented.tolist()]:
        due, kind = int(rng.integers(tick + 1, last + 1)), int(rng.choice(_DELAYED))
        when = (due + float(rng.random())) * world.config.time.tick_hours
        order, origin = int(rng.integers(0, 8)), int(rng.integers(0, last))
        amount = float(rng.exponential(1e3))
        push.py_func(queue.pool, 0, due, when, kind, click, order, amount, origin)
    return pending.click_id.size


def default_action(env: CampaignEnv, obs: Any, rng: np.random.Generator) -> np.ndarray:
    """Random multiples of the platform's value (Auction-v0), random multipliers (Pacing-v0)."""
    space: Any = env.action_space
    if not isinstance(env, AuctionEnv):
        return rng.uniform(-1, 1, space.shape).astype(space.dtype)
    value = obs["pctr"] * obs["pcvr"] * obs["list_price"] * env.campaign.margin
    return np.minimum(value * rng.uniform(0, 2, value.shape), env.campaign.max_bid)


def check_no_leak(
    make_env: Callable[[], Any],
    *,
    ticks: int | None = None,
    seed: int = 0,
    act: Callable[[Any], np.ndarray] | None = None,
    estimates: Callable[[Any, dict[str, Any]], Any] | None = None,
) -> int:
    """Asserts that nothing an agent receives depends on what has not happened yet.

    Two environments play the same actions. Before every tick the second one takes over the state
    of the first, and everything hidden or not due in the tick is replaced by noise (`_OtherFuture`
    lists it): observation, reward, flags and info must still be the same bit for bit.

    Args:
        make_env: makes an Auction-v0 or Pacing-v0 environment, wrapped or not; called twice.
        ticks: how many to play; the whole campaign by default.
        seed: of the episode and of the noise.
        act: maps observations to actions; random bids around the platform's value by default.
        estimates: maps (obs, info) to whatever else an agent would use; compared as well.

    Returns:
        Number of pending events that were rewritten: 0 tests little but the replay's log.

    Raises:
        CheckError: something depends on the future.
        ValueError: accrual rewards, which are privileged, or not two campaign environments.
    """
    env, twin = make_env(), make_env()
    base, other = env.unwrapped, twin.unwrapped
    if not isinstance(base, CampaignEnv) or base is other:
        raise ValueError("make_env must make a new Auction-v0 or Pacing-v0 at every call")
    if base.world.config.reward == "accrual":
        raise ValueError("reward = 'accrual' is privileged: it pays before feedback arrives")
    rng = generator(seed, _NOISE_STREAM)
    future = _OtherFuture(other.world, rng)
    seen, twin_seen = env.reset(seed=seed), twin.reset(seed=seed)
    _require_same(seen, twin_seen, "reset", "reset(seed) is not deterministic")
    other.world.source = future
    for tick in range(min(ticks or base.campaign.num_ticks, base.campaign.num_ticks)):
        action = act(seen[0]) if act is not None else default_action(base, seen[0], rng)
        other.set_state(base.get_state())
        future.begin(tick)
        twin_seen = twin.step(action)
        future.end()
        seen = env.step(action)
        more = [estimates and estimates(step[0], step[4]) for step in (seen, twin_seen)]
        left, right = (_Step._make((*s, m)) for s, m in zip((seen, twin_seen), more, strict=True))
        _require_same(left, right, "step", f"tick {tick} shows the future")
    return future.rewritten


def check_agent(
    agent_factory: Callable[[], Any], make_env: Callable[[], Any], *, seed: int = 0
) -> None:
    """Asserts that an agent keeps the contract of `adsim.types.Agent`.

    Bids have the right shape and dtype, are finite and within [0, max_bid]; equal seeds give equal
    bids, in a second campaign of the same instance, too; nothing handed over is modified; ticks
    without impressions, an empty budget and an unknown price history are survived.

    Args:
        agent_factory: makes the agent; called several times.
        make_env: makes an Auction-v0 environment.
        seed: of the episode and the agent.
    """
    env, agent = make_env().unwrapped, agent_factory()
    if not isinstance(env, AuctionEnv):
        raise ValueError("make_env must make an Auction-v0 environment")
    missing = [n for n in ("reset", "act", "observe", "privileged") if not hasattr(agent, n)]
    _require(not missing, f"the agent has no {missing}")
    flagged = agent.privileged is hasattr(agent, "attach")
    _require(flagged, "privileged must be True if there is an attach(oracle), and False if not")
    bids, again = (_campaign_bids(agent, env, seed) for _ in range(2))
    _require_same(bids, again, "bids", "reset() does not reset: second campaign, same seed")
    other = _campaign_bids(agent_factory(), env, seed)
    _require_same(bids, other, "bids", "not deterministic: another instance, same seed")
    _check_unusual_ticks(agent_factory(), env, seed)
    _check_unknown_history(agent_factory, env, seed)


def _start(agent: Any, env: AuctionEnv, seed: int, campaign: Any = None) -> Any:
    """Resets both; returns the first observation."""
    obs, info = env.reset(seed=seed)
    _call(lambda c: agent.reset(c, seed=seed), campaign or env.campaign)
    if agent.privileged:
        agent.attach(env.oracle())
    _call(agent.observe, info)
    return obs


def _bid(agent: Any, env: AuctionEnv, obs: dict[str, Any], when: str) -> np.ndarray:
    """One checked call of act()."""
    bids = _call(agent.act, obs)
    _require(isinstance(bids, np.ndarray), f"{when}: bids must be an array, got {type(bids)}")
    shape = (env.world.num_slots,)
    good = bids.shape == shape and bids.dtype == np.float64
    _require(good, f"{when}: bids must be float64 {shape}, got {bids.dtype} {bids.shape}")
    high = env.campaign.max_bid
    wrong = bids[~((bids >= 0) & (bids <= high))]
    _require(wrong.size == 0, f"{when}: bids must be in [0, {high:g}], got {wrong[:1]}")
    return bids.copy()


def _campaign_bids(agent: Any, env: AuctionEnv, seed: int, campaign: Any = None) -> list[Any]:
    """Plays a campaign; returns the bids of all ticks."""
    obs, over, bids = _start(agent, env, seed, campaign), False, []
    while not over:
        bids.append(_bid(agent, env, obs, f"tick {len(bids)}"))
        obs, _, over, _, info = env.step(bids[-1])
        _call(agent.observe, info)
    return bids


def _check_unusual_ticks(agent: Any, env: AuctionEnv, seed: int) -> None:
    """Ticks without impressions, first, later and last of all, and ticks without budget."""
    obs = _start(agent, env, seed)
    nothing = env.reset(seed=seed)[1]
    empty = {name: np.zeros_like(value) for name, value in obs.items()}
    empty["budget_left"] = obs["budget_left"]
    broke = obs | {"budget_left": np.zeros(1)}
    cases = [("a tick without impressions", empty), ("an exhausted budget", broke)]
    for when, unusual in (*cases, ("a usual tick", obs), *cases):
        _bid(agent, env, unusual, when)
        _call(agent.observe, nothing)


def _check_unknown_history(agent_factory: Callable[[], Any], env: AuctionEnv, seed: int) -> None:
    """A history of prices only must do; without any history a clear ValueError is allowed, too."""
    known = env.campaign.price_history
    unknown = np.full(known.price.shape, np.nan)
    prices_only = known._replace(pctr=unknown, value=unknown.copy())
    _campaign_bids(agent_factory(), env, seed, env.campaign._replace(price_history=prices_only))
    empty = rows_of(known, slice(0))._replace(ctr=float("nan"), cpc=float("nan"))
    try:
        _campaign_bids(agent_factory(), env, seed, env.campaign._replace(price_history=empty))
    except ValueError as error:
        _require("history" in str(error), f"without price history: unclear error {error!r}")


def collect_windows(env: AuctionEnv, *, seed: int = 0) -> list[tuple[Impressions, Window]]:
    """Plays a campaign with random bids; per tick its impressions and what was learned of it."""
    rng = generator(seed, _NOISE_STREAM)
    (obs, _), over, out = env.reset(seed=seed), False, []
    while not over:
        tick = int(env.world.tick[0])
        shown = shown_impressions(obs, tick)
        obs, _, over, _, info = env.step(default_action(env, obs, rng))
        won, events = info["result"].won, info["feedback"]
        clicks, now = env.world.log.clicks(), (tick + 1) * env.campaign.tick_hours
        clicks = rows_of(clicks, np.isin(clicks.impression_id, events.click_id))
        learned = Window(now, rows_of(shown, won), rows_of(info["result"], won), clicks, events)
        out.append((shown, learned))
    return out


def check_predictor(
    predictor_factory: Callable[[], Any],
    make_env: Callable[[], Any],
    *,
    seed: int = 0,
    reload: Callable[[Any], Any] = deepcopy,
) -> None:
    """Asserts that a predictor keeps the contract of `adsim.types.Predictor`.

    predict() is pure and deterministic and gives every target in its range, for no impressions and
    ids never seen, too; partial_fit() returns the predictor, leaves its argument alone and takes
    empty windows; a predictor that is reloaded in the middle goes on as if nothing had happened.

    Args:
        predictor_factory: makes the predictor; called twice.
        make_env: makes an Auction-v0 environment, from which windows are collected. A privileged
            predictor with attach() gets its oracle and is asked about its current tick only.
        seed: of the episode.
        reload: saves a predictor and loads it; copies it by default.
    """
    env = make_env().unwrapped
    ticks = collect_windows(env, seed=seed)
    env.reset(seed=seed)
    batches = [ticks[0][0]]
    if not predictor_factory().privileged:
        never = np.iinfo(np.int32).max
        ids = {n: np.full_like(getattr(batches[0], n), never) for n in ("features", "scene")}
        batches += [rows_of(batches[0], slice(0)), batches[0]._replace(**ids)]
    one, two, other = (
        _exercise(predictor_factory(), env, batches, ticks, how) for how in (None, None, reload)
    )
    _require_same(one, two, "predictions", "not deterministic: two instances, same windows")
    _require_same(one, other, "predictions", "reloaded, it does not go on as before")


def _exercise(
    predictor: Any, env: AuctionEnv, batches: Any, ticks: Any, reload: Callable[[Any], Any] | None
) -> list[Any]:
    """Predicts before, between and after fits; returns all predictions."""
    _require(type(predictor.privileged) is bool, "privileged must be a bool")
    _attach(predictor, env)
    first = ticks[0][1]
    nothing = first._replace(**{n: rows_of(getattr(first, n), slice(0)) for n in first._fields[1:]})
    out = [[_predict(predictor, batch) for batch in batches]]
    for place, window in enumerate((nothing, *(window for _, window in ticks), nothing)):
        if reload is not None and place == len(ticks) // 2:
            predictor = reload(predictor)
            _attach(predictor, env)
        result = _call(predictor.partial_fit, window)
        _require(result is predictor, "partial_fit() must return the predictor itself")
        out.append([_predict(predictor, batches[0])])
    return [*out, [_predict(predictor, batch) for batch in batches]]


def _attach(predictor: Any, env: AuctionEnv) -> None:
    """Gives a privileged predictor the truth."""
    if hasattr(predictor, "attach"):
        _require(predictor.privileged, "a predictor with attach(oracle) must be privileged")
        predictor.attach(env.oracle())


def _predict(predictor: Any, impressions: Impressions) -> dict[Target, Any]:
    """One checked prediction, made twice."""
    size, estimates = impressions.mask.size, _call(predictor.predict, impressions)
    _require_same(estimates, predictor.predict(impressions), "estimates", "predict() is not pure")
    targets = set(estimates)
    _require(targets == set(predictor.targets), f"predict() must give its targets, got {targets}")
    for target, (mean, std) in estimates.items():
        high = np.inf if target is Target.GMV else 1.0
        for name, values, top in (("mean", mean, high), ("std", std, np.inf)):
            good = values.shape == (size,) and values.dtype == np.float64
            good = good and bool((np.isfinite(values) & (values >= 0) & (values <= top)).all())
            text = f"{target}: {name} of {size} impressions must be float64 ({size},) in"
            _require(good, f"{text} [0, {top}], finite; got {values.dtype} {values!r}")
    return estimates
