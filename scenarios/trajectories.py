"""Logged campaigns of Pacing-v0 for offline reinforcement learning, as a Minari dataset.

The behaviour policy is a bidding agent that multiplies the platform's value estimate by one factor
per tick (`value`, `linear`, `pid`, `adaptive`, `dual`, ...). It plays as always, on observations of
Auction-v0; what is logged, and what is played, is the action of Pacing-v0 with that factor:

    action = log(bid / value) / log(max_multiplier), within [-1, 1]

plus normal noise, if asked, so that other actions are tried as well.
"""

import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

from adsim.env import PacingEnv, row_of
from adsim.ledger import NetValueStatement
from adsim.observation import AuctionView
from adsim.outcome import TickOutcome
from adsim.rng import generator
from adsim.types import Campaign, FloatArray
from adsim.world import World
from scenarios import console
from scenarios.build import make_agent
from scenarios.commands import make_folder
from scenarios.schema import load

_NOISE_STREAM = 105  # of rng.generator: apart from every stream of a world
_SAME_FACTOR = 1e-6  # relative difference of bid / value that is rounding
_FIRST = np.array([0])


class Trajectory(NamedTuple):
    """One campaign of T ticks as an agent of Pacing-v0 lived it."""

    agent: str
    seed: int
    observations: list[np.ndarray]  # T + 1 of (22,)
    actions: list[np.ndarray]  # T of (1,)
    rewards: list[float]  # T, currency
    terminations: list[bool]  # T
    infos: list[dict[str, Any]]  # T + 1
    clipped: int  # ticks whose factor lay outside the range of actions
    statement: NetValueStatement


class _ShownPacing(PacingEnv):
    """Pacing-v0 that also has at hand what Auction-v0 would have shown."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._auctions = AuctionView(world, self.terms)

    def _info(self, outcome: TickOutcome | None) -> dict[str, Any]:
        self.auction_info = row_of(self._auctions.info(outcome, _FIRST), 0)
        return super()._info(outcome)

    def auction_observation(self) -> dict[str, Any]:
        """The observation of Auction-v0."""
        return {name: array[0] for name, array in self._auctions.observation().items()}

    def values(self) -> FloatArray:
        """Value estimates (M,) that actions multiply, currency per shown impression."""
        view: Any = self.view
        return view.values()[0]


def log_factor(
    bids: FloatArray, obs: Mapping[str, Any], values: FloatArray, campaign: Campaign
) -> float | None:
    """Log of the one factor on the values of a tick that an agent's bids come from.

    Args:
        bids: (M,) of the agent, in the campaign's unit.
        obs: observation of Auction-v0.
        values: (M,) value estimates, currency per shown impression.
        campaign: gives the unit of bids and the highest bid.

    Returns:
        None if nothing tells: no impression of value, no budget, or all bids at their limit;
        minus infinity if the agent bids on nothing.

    Raises:
        ValueError: the factor is not the same for all impressions.
    """
    limit = min(campaign.max_bid, float(obs["budget_left"][0]))
    asked = (np.asarray(obs["mask"]) > 0) & (values > 0)
    if not asked.any() or limit <= 0:
        return None
    if not bids[asked].any():
        return -math.inf
    per_shown = bids * np.asarray(obs["pctr"]) if campaign.charge == "click" else bids
    factors = per_shown[asked & (bids < limit)] / values[asked & (bids < limit)]
    if not factors.size:
        return None
    if factors.max() > factors.min() * (1 + _SAME_FACTOR):
        raise ValueError("it does not bid one multiple of the platform's value estimates")
    return float(np.log(np.median(factors)))


def play(env: _ShownPacing, name: str, seed: int, noise: float) -> Trajectory:
    """One campaign of an agent, with normal noise of the given sd on its actions.

    Raises:
        ValueError: an agent whose bids are no multiple of the platform's values.
    """
    agent, rng = make_agent(name), generator(seed, _NOISE_STREAM)
    if agent.privileged:
        raise ValueError(f"agent {name!r} is privileged: its campaigns teach what nobody can know")
    obs, info = env.reset(seed=seed)
    agent.reset(env.campaign, seed=seed)
    agent.observe(env.auction_info)
    scale = math.log(env.world.config.campaign.max_multiplier)
    observations, infos = [obs], [info]
    actions: list[np.ndarray] = []
    rewards: list[float] = []
    terminations: list[bool] = []
    clipped, action, over = 0, 0.0, False
    while not over:
        shown = env.auction_observation()
        try:
            factor = log_factor(agent.act(shown), shown, env.values(), env.campaign)
        except ValueError as error:
            raise ValueError(f"agent {name!r} cannot play Pacing-v0: {error}") from error
        if factor is not None:  # else as in the last tick
            action = min(max(factor / scale, -1.0), 1.0)
            clipped += abs(factor) > scale * (1 + _SAME_FACTOR)
        tried = min(max(action + noise * rng.standard_normal(), -1.0), 1.0)
        actions.append(np.array([tried], np.float32))
        obs, reward, over, _, info = env.step(actions[-1])
        agent.observe(env.auction_info)
        observations.append(obs)
        infos.append(info)
        rewards.append(float(reward))
        terminations.append(over)
    return Trajectory(
        *(name, seed, observations, actions, rewards, terminations, infos),
        *(clipped, env.statement()),
    )


def collect(
    env: gym.Env[Any, Any],
    agents: Sequence[str],
    seeds: Sequence[int],
    noise: float = 0.0,
    report: Callable[[str], None] = lambda note: None,
) -> list[Trajectory]:
    """Campaigns of every agent on every seed.

    Args:
        env: adsim/Pacing-v0; its world is played.
        agents: names, or `file.py:Class`.
        seeds: of `reset`.
        noise: sd of the normal noise on actions, >= 0.
        report: called with a note after each campaign.
    """
    if not noise >= 0:
        raise ValueError(f"noise must be >= 0, got {noise}")
    base: Any = env.unwrapped
    shown, trajectories = _ShownPacing(base.world), []
    for name in agents:
        for seed in seeds:
            trajectories.append(play(shown, name, seed, noise))
            report(f"{name}, seed {seed}")
    return trajectories


def summary(trajectory: Trajectory) -> dict[str, Any]:
    """What is told of an episode: in the dataset and in the table."""
    return {
        "agent": trajectory.agent,
        "seed": trajectory.seed,
        "net_value": trajectory.statement.net_value,
        "expected_net_value": trajectory.statement.expected_net_value,
        "spend": trajectory.statement.spend,
        "clipped_ticks": trajectory.clipped,
    }


def write_dataset(
    env: gym.Env[Any, Any], trajectories: Sequence[Trajectory], dataset_id: str, root: Path
) -> Path:
    """Writes campaigns as a Minari dataset; returns its folder.

    `minari.load_dataset(dataset_id)` finds it with the environment variable MINARI_DATASETS_PATH
    set to `root`. The seeds and figures of `summary` are the metadata of its episodes.

    Raises:
        ValueError: Minari is not installed, or the dataset exists.
    """
    minari = _minari()
    episodes = [
        minari.data_collector.EpisodeBuffer(
            id=number,
            seed=one.seed,
            observations=one.observations,
            actions=one.actions,
            rewards=one.rewards,
            terminations=one.terminations,
            truncations=[False] * len(one.rewards),
            infos=_stacked(one.infos),
        )
        for number, one in enumerate(trajectories)
    ]
    agents = sorted({one.agent for one in trajectories})
    with _datasets_in(root), warnings.catch_warnings():
        # It recommends to name an author and a permanent link: those of whoever publishes the data.
        warnings.simplefilter("ignore", UserWarning)
        dataset = minari.create_dataset_from_buffers(
            dataset_id,
            episodes,
            env=env,
            algorithm_name=", ".join(agents),
            description="Auto-bidding campaigns of adsim/Pacing-v0, in currency per tick.",
            requirements=["adsim"],
        )
    told = [{k: v for k, v in summary(one).items() if k != "seed"} for one in trajectories]
    dataset.storage.update_episode_metadata(told)
    return root / dataset_id


def _minari() -> Any:
    try:
        import h5py  # noqa: F401 - Minari needs it to write, and says so late
        import minari
        import minari.data_collector
    except ImportError as error:
        raise ValueError('logged campaigns need Minari: pip install "adsim[offline]"') from error
    return minari


@contextmanager
def _datasets_in(root: Path) -> Iterator[None]:
    """While it lasts, Minari's datasets are in `root`."""
    before = os.environ.get("MINARI_DATASETS_PATH")
    os.environ["MINARI_DATASETS_PATH"] = str(root.resolve())
    try:
        yield
    finally:
        del os.environ["MINARI_DATASETS_PATH"]
        if before is not None:
            os.environ["MINARI_DATASETS_PATH"] = before


def _stacked(infos: list[dict[str, Any]]) -> dict[str, Any]:
    """A dict of lists from a list of dicts."""
    return {
        name: _stacked([info[name] for info in infos])
        if isinstance(value, dict)
        else [info[name] for info in infos]
        for name, value in infos[0].items()
    }


def trajectories_command(
    scenario: str,
    agents: Sequence[str],
    seeds: Sequence[int],
    overrides: dict[str, Any],
    out: Path,
    noise: float,
    *,
    as_json: bool,
) -> None:
    """`adsim data trajectories`: plays, writes, prints."""
    _minari()
    dataset_id = f"adsim/{load(scenario, overrides).name}-v0"
    if (out / dataset_id).exists():
        raise ValueError(f"--out: {out / dataset_id} exists: choose another folder")
    env = gym.make("adsim/Pacing-v0", scenario=scenario, overrides=overrides)
    players = list(dict.fromkeys(agents))
    with console.progress(f"play {scenario}", len(players) * len(seeds)) as advance:
        played = collect(env, players, seeds, noise, lambda note: advance(note=note))
    folder = write_dataset(env, played, dataset_id, make_folder(out))
    rows = [summary(one) for one in played]
    if as_json:
        console.emit_json(rows, dataset=dataset_id, out=str(folder))
        return
    console.print_table(
        f"{dataset_id}: {len(played)} campaigns of {len(played[0].rewards)} ticks",
        ["agent", "seed", "net value", "expected", "spend", "clipped ticks"],
        [[row["agent"], *(console.number(v) for v in list(row.values())[1:])] for row in rows],
        f'MINARI_DATASETS_PATH={out}, minari.load_dataset("{dataset_id}")',
    )
