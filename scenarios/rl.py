"""Pacing-v0 for stable-baselines3: many campaigns side by side as one of its `VecEnv`s.

Needs the extra `rl`. Two things are added to the environment, both for learning only:

    input   the observation and one number made of it: the budget left against the time left, which
            says how far to move the multiplier (`policy_input`)
    reward  divided by the budget, and, if a reference is given, less what a campaign that bids a
            constant multiplier on the same traffic gets in the same tick

A day's purchases are so few and their amounts so spread that the reward of a tick is nearly all
luck. Most of this luck is that of the impressions which the reference wins, too, and cancels. What
the reference gets does not depend on the action: the best policy stays the same. (A control variate
by common random numbers: P. Glasserman and D. Yao, Management Science 38(6), 1992.)
"""

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvStepReturn

from adsim.vector_env import PacingVectorEnv
from scenarios.policy import INPUT_SIZE, policy_input


class PacingVecEnv(VecEnv):
    """The vector environment of Pacing-v0 as stable-baselines3 wants it.

    A campaign that is over starts anew within `step`; the last observation of the old one is in
    `infos[i]["terminal_observation"]`, and its statement's figures in `infos[i]["episode"]`: `r`,
    net value, `l`, ticks, and `expected_net_value`, `spend`, currency.

    Args:
        env: with autoreset SAME_STEP and one action component.
        reference: action in [-1, 1] of a campaign that is played along on the same traffic. All
            campaigns then have the same traffic, too, and the last one of `env` is the reference.

    Raises:
        ValueError: another way of autoreset, or a reference out of range or without company.
    """

    def __init__(self, env: PacingVectorEnv, reference: float | None = None) -> None:
        if env.autoreset_mode != AutoresetMode.SAME_STEP:
            raise ValueError(f"env must have autoreset SameStep, got {env.autoreset_mode.value}")
        if reference is not None and not (-1 <= reference <= 1 and env.num_envs > 1):
            raise ValueError(
                "reference must be in [-1, 1], of at least 2 campaigns, "
                f"got {reference} of {env.num_envs}"
            )
        self.env, self.reference = env, reference
        self._budget = env.terms.budget
        num_envs = env.num_envs - (reference is not None)
        self._actions = np.zeros((env.num_envs, 1), np.float32)
        if reference is not None:
            self._actions[-1] = reference
        self._net_value, self._length = np.zeros(num_envs), np.zeros(num_envs, np.int64)
        inputs = spaces.Box(-1.0, 1.0, (INPUT_SIZE,), np.float32)
        super().__init__(num_envs, inputs, env.single_action_space)

    def reset(self) -> NDArray[np.float32]:
        """Starts campaigns in all sub-environments: inputs (E, INPUT_SIZE)."""
        obs, _ = self.env.reset(seed=self._next_seeds())
        self._reset_seeds()
        self._reset_options()
        self._net_value[:], self._length[:] = 0.0, 0
        return policy_input(obs[: self.num_envs])

    def _next_seeds(self) -> Sequence[int | None]:
        """The seeds asked for; one for all if a reference is played along."""
        if self.reference is None:
            return self._seeds
        seed = self._seeds[0]
        if seed is None:
            seed = int(self.env.np_random.integers(2**31))
        return [seed] * self.env.num_envs

    def step_async(self, actions: NDArray[np.float32]) -> None:
        """Takes note of the actions (E, k)."""
        self._actions[: self.num_envs] = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Plays one tick: inputs, rewards in budgets, ends and infos."""
        obs, reward, terminated, _, infos = self.env.step(self._actions)
        inputs, reward = policy_input(obs[: self.num_envs]), np.asarray(reward)
        own, over = reward[: self.num_envs], terminated[: self.num_envs]
        self._net_value += own
        self._length += 1
        records: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for e in np.flatnonzero(over):
            last = policy_input(infos["final_obs"][e][None])[0]
            records[e] = {"terminal_observation": last, "episode": self._episode(int(e))}
        self._net_value[over], self._length[over] = 0.0, 0
        base = 0.0 if self.reference is None else reward[-1]
        return inputs, ((own - base) / self._budget).astype(np.float32), over.copy(), records

    def _episode(self, index: int) -> dict[str, float]:
        statement = self.env.statement(index)
        return {
            "r": float(self._net_value[index]),
            "l": int(self._length[index]),
            "expected_net_value": statement.expected_net_value,
            "spend": statement.spend,
        }

    def close(self) -> None:
        """Ends the threads."""
        self.env.close()

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """An attribute of the vector environment, which all sub-environments share."""
        value = None if attr_name == "render_mode" else getattr(self.env, attr_name)
        return [value for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Refused: sub-environments are rows of one world."""
        raise NotImplementedError(f"set_attr: {attr_name!r} cannot be set in a sub-environment")

    def env_method(
        self,
        method_name: str,
        *method_args: Any,
        indices: VecEnvIndices = None,
        **method_kwargs: Any,
    ) -> list[Any]:
        """Calls a method that takes the sub-environment first: `statement`, `campaign`."""
        method = getattr(self.env, method_name)
        chosen = self._get_indices(indices)
        return [method(index, *method_args, **method_kwargs) for index in chosen]

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: VecEnvIndices = None
    ) -> list[bool]:
        """No sub-environment is wrapped."""
        return [False for _ in self._get_indices(indices)]
