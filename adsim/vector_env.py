"""The vector environments: the same World with E > 1, equal to E single environments.

`AuctionVectorEnv(n)` seeded with `seed` gives exactly what `SyncVectorEnv` of n `AuctionEnv`s does:
sub-environment i is seeded `seed + i`, infos carry `_key` masks, and the three autoreset modes
follow Gymnasium's rules.
"""

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from adsim.history import episode_campaign, make_campaign
from adsim.ledger import NetValueStatement
from adsim.observation import AuctionView, PacingView
from adsim.oracle import Oracle
from adsim.outcome import TickOutcome
from adsim.types import BoolArray, Campaign, IntArray
from adsim.value_source import ValueSource
from adsim.world import World


class CampaignVectorEnv(gym.vector.VectorEnv[Any, Any, Any]):
    """What both vector environments share: seeding, autoreset and infos."""

    view: AuctionView | PacingView

    def __init__(
        self, world: World, autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP
    ) -> None:
        self.world, self.num_envs = world, world.num_worlds
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = {"autoreset_mode": self.autoreset_mode, "render_modes": []}
        self.terms = make_campaign(world)
        self._generators: list[np.random.Generator | None] = [None] * self.num_envs
        self._over = np.zeros(self.num_envs, dtype=bool)
        self._started = False
        self._statements: list[NetValueStatement | None] = [None] * self.num_envs

    def _set_spaces(self) -> None:
        view = self.view
        self.single_observation_space = view.observation_space
        self.single_action_space = view.action_space
        self.observation_space = batch_space(view.observation_space, self.num_envs)
        self.action_space = batch_space(view.action_space, self.num_envs)

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        """Starts episodes in all sub-environments, or in those of options["reset_mask"].

        Args:
            seed: sub-environment i gets seed + i, or its entry of a sequence.
            options: "reset_mask" (E,) bool; the rest goes to every sub-environment.

        Raises:
            ValueError: wrong number of seeds, wrong mask.
        """
        if seed is None or isinstance(seed, int | np.integer):
            seeds: Sequence[int | None] = [
                None if seed is None else int(seed) + i for i in range(self.num_envs)
            ]
        else:
            seeds = seed
        if len(seeds) != self.num_envs:
            raise ValueError(f"seed must have {self.num_envs} entries, got {len(seeds)}")
        rest = dict(options or {})
        mask = np.asarray(rest.pop("reset_mask", np.ones(self.num_envs, dtype=bool)))
        if mask.shape != (self.num_envs,) or mask.dtype != np.bool_ or not mask.any():
            raise ValueError(
                f"options['reset_mask'] must be a bool array of shape ({self.num_envs},) "
                f"with a True value, got {mask}"
            )
        if not self._started and not mask.all():
            raise ResetNeeded("reset: the first reset must cover all sub-environments")
        worlds = np.flatnonzero(mask)
        self._restart(worlds, [seeds[int(i)] for i in worlds], rest)
        self._started = True
        return self.view.observation(), with_masks(self.view.info(None, worlds), mask)

    def _restart(
        self, worlds: IntArray, seeds: Sequence[int | None], options: dict[str, Any]
    ) -> None:
        """New episodes for some sub-environments, each from its own generator."""
        episode_seeds = []
        for world, seed in zip(worlds, seeds, strict=True):
            generator = self._generators[world]
            if seed is not None or generator is None:
                generator = seeding.np_random(seed)[0]
                self._generators[world] = generator
            episode_seeds.append(int(generator.integers(2**63)))
            self.world.source.choose(int(world), options)
        self.world.reset(worlds, episode_seeds)
        self.view.restart(worlds)
        self._over[worlds] = False

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Plays one tick in every sub-environment that is not being reset."""
        if not self._started:
            raise ResetNeeded("step: call reset() before the first step()")
        restart = self._over.copy()
        if restart.any() and self.autoreset_mode != AutoresetMode.NEXT_STEP:
            raise ResetNeeded(f"step: sub-environments {np.flatnonzero(restart)} are over")
        playing = ~restart
        outcome = None
        if playing.any():
            worlds = np.flatnonzero(playing)
            bids = self.view.bids(actions, playing)
            self.view.before()
            outcome = self.world.play(bids, worlds, self.view.click_values())
            self.view.note(outcome, worlds)
        if restart.any():
            self._restart(np.flatnonzero(restart), [None] * int(restart.sum()), {})
        reward = outcome.reward if outcome is not None else np.zeros(self.num_envs)
        terminated = self.world.tick >= self.world.num_ticks
        truncated = np.zeros(self.num_envs, dtype=bool)
        infos = self._infos(outcome, playing)
        self._over = terminated.copy()
        for index in np.flatnonzero(terminated & playing):
            self._statements[index] = self.world.statement(int(index))
        if self.autoreset_mode == AutoresetMode.SAME_STEP and terminated.any():
            infos = self._same_step(infos, terminated)
        return self.view.observation(), reward, terminated, truncated, infos

    def _infos(self, outcome: TickOutcome | None, playing: BoolArray) -> dict[str, Any]:
        everyone = np.ones(self.num_envs, dtype=bool)
        return with_masks(self.view.info(outcome, np.flatnonzero(playing)), everyone)

    def _same_step(self, infos: dict[str, Any], over: BoolArray) -> dict[str, Any]:
        """Moves the last observation and info to final_*, and resets at once."""
        obs = self.view.observation()
        final_obs = np.full(self.num_envs, None, dtype=object)
        for e in np.flatnonzero(over):
            final_obs[e] = (
                {name: array[e].copy() for name, array in obs.items()}
                if isinstance(obs, dict)
                else obs[e].copy()
            )
        final_info = masked(infos, over)
        worlds = np.flatnonzero(over)
        self._restart(worlds, [None] * worlds.size, {})
        fresh = with_masks(self.view.info(None, worlds), over)
        merged = choose(fresh, infos, over)
        return merged | {
            "final_obs": final_obs,
            "_final_obs": over.copy(),
            "final_info": final_info,
            "_final_info": over.copy(),
        }

    @property
    def privileged(self) -> bool:
        """Whether its estimates are made of the truth."""
        return self.view.privileged

    def statement(self, index: int) -> NetValueStatement:
        """The closing statement of the last campaign that a sub-environment finished.

        Raises:
            RuntimeError: it has not finished any yet.
        """
        statement = self._statements[index]
        if statement is None:
            raise RuntimeError(
                f"statement: sub-environment {index} has not finished a campaign yet"
            )
        return statement

    def campaign(self, index: int) -> Campaign:
        """What an agent is told of the current episode of a sub-environment."""
        return episode_campaign(self.world, self.terms, index)

    def close_extras(self, **kwargs: Any) -> None:
        """Ends the threads."""
        self.world.close()

    def oracle(self, index: int) -> Oracle:
        """Privileged knowledge of a sub-environment."""
        return Oracle(self.world, index)


def with_masks(info: dict[str, Any], mask: BoolArray) -> dict[str, Any]:
    """Adds Gymnasium's `_key` masks and blanks entries outside the mask."""
    out: dict[str, Any] = {}
    for name, value in info.items():
        out[name] = with_masks(value, mask) if isinstance(value, dict) else blank(value, mask)
        out[f"_{name}"] = mask.copy()
    return out


def blank(value: np.ndarray, mask: BoolArray) -> np.ndarray:
    """The array with None or 0 outside the mask."""
    if mask.all():
        return value
    out = (
        np.zeros_like(value) if value.dtype != object else np.full(value.shape, None, dtype=object)
    )
    out[mask] = value[mask]
    return out


def masked(infos: dict[str, Any], mask: BoolArray) -> dict[str, Any]:
    """Infos with masks, restricted to some sub-environments."""
    return with_masks(without_masks(infos), mask)


def without_masks(infos: dict[str, Any]) -> dict[str, Any]:
    """Infos without their `_key` entries."""
    plain = {k: v for k, v in infos.items() if not k.startswith("_")}
    return {k: without_masks(v) if isinstance(v, dict) else v for k, v in plain.items()}


def choose(fresh: dict[str, Any], old: dict[str, Any], mask: BoolArray) -> dict[str, Any]:
    """Entries of `fresh` inside the mask, of `old` outside."""
    out: dict[str, Any] = {}
    for name, value in old.items():
        if isinstance(value, dict):
            out[name] = choose(fresh[name], value, mask)
        elif name.startswith("_"):
            out[name] = value
        else:
            out[name] = np.where(mask, fresh[name], value)
    return out


class AuctionVectorEnv(CampaignVectorEnv):
    """E campaigns of `adsim.env.AuctionEnv` side by side; bids (E, M)."""

    def __init__(
        self,
        world: World,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        *,
        value_source: ValueSource | None = None,
    ) -> None:
        super().__init__(world, autoreset_mode)
        self.view = AuctionView(world, self.terms, value_source)
        self._set_spaces()


class PacingVectorEnv(CampaignVectorEnv):
    """E campaigns of `adsim.env.PacingEnv` side by side; actions (E, k)."""

    def __init__(
        self,
        world: World,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        *,
        per_scene: bool = False,
        value_source: ValueSource | None = None,
    ) -> None:
        super().__init__(world, autoreset_mode)
        self.view = PacingView(world, self.terms, per_scene=per_scene, value_source=value_source)
        self._set_spaces()
