"""PPO and SAC of stable-baselines3 for Pacing-v0: settings, policies, checkpoints. Extra `rl`.

The library's own files hold pickled objects, which run code when they are loaded. Here an algorithm
is made anew from settings, and a checkpoint brings its numbers: weights, states of the optimisers
and, of SAC, past transitions.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from torch import nn

from scenarios.policy import Policy, PolicySettings
from scenarios.results import write_atomically
from scenarios.rl import PacingVecEnv

ALGORITHMS = ("ppo", "sac")
_HIDDEN = [64, 64]  # units of policy and value function
_TRANSITIONS = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")
_MOST_TRANSITIONS = 1_000_000  # that SAC keeps

LEARNING_RATE = 3e-4  # of PPO at the start; it falls linearly to the share _LAST_RATE
_LAST_RATE = 0.05

# Rewards arrive up to ten days after the bids that earned them, and what matters is their sum:
# nothing is discounted, and advantages are sums of rewards, not forecasts of the value function.
# Exploration is a function of the state, drawn once per campaign (generalised state-dependent
# exploration: A. Raffin, J. Kober, F. Stulp, CoRL 2021): a multiplier that is 5 % higher for a
# whole campaign shows in its net value; noise drawn in every tick averages out.
PPO_SETTINGS: dict[str, Any] = {
    "learning_rate": lambda left: LEARNING_RATE * max(left, _LAST_RATE),
    "n_epochs": 4,
    "gamma": 1.0,
    "gae_lambda": 1.0,
    "use_sde": True,
}
PPO_LOG_STD = -4.0  # of the exploration's weights
_MINIBATCHES = 8
# Targets are sums of rewards over a campaign's ticks, for the same reason.
SAC_SETTINGS: dict[str, Any] = {
    "learning_rate": 1e-4,
    "gamma": 1.0,
    "ent_coef": 1e-5,
    "use_sde": True,
    "use_sde_at_warmup": True,  # no random actions: the first policy is a good one
}
_SAC_WARM_UP = 0.1  # share of the steps before it learns: actors follow critics that know nothing
SAC_LOG_STD = -4.5


def make_algorithm(
    name: str, env: PacingVecEnv, *, steps: int, seed: int, first_action: float, logs: Path | None
) -> BaseAlgorithm:
    """An algorithm whose first policy takes the same action everywhere, nearly.

    Args:
        name: in `ALGORITHMS`.
        env: to learn in.
        steps: that it is going to take, over all campaigns.
        seed: in [0, 2**31); of torch, of exploration and of the campaigns.
        first_action: in (-1, 1).
        logs: folder for TensorBoard.
    """
    common: dict[str, Any] = {
        "seed": seed,
        "device": "cpu",
        "tensorboard_log": None if logs is None else str(logs),
    }
    ticks = env.env.terms.num_ticks
    if name == "ppo":
        model = PPO(
            "MlpPolicy",
            env,
            n_steps=ticks,  # whole campaigns
            batch_size=max(ticks * env.num_envs // _MINIBATCHES, 2),
            policy_kwargs={"net_arch": _HIDDEN, "log_std_init": PPO_LOG_STD},
            **PPO_SETTINGS,
            **common,
        )
        _set_bias(model.policy.action_net, first_action)
        return model
    model = SAC(
        "MlpPolicy",
        env,
        buffer_size=min(max(steps, env.num_envs), _MOST_TRANSITIONS),
        learning_starts=int(_SAC_WARM_UP * steps),
        n_steps=ticks,
        policy_kwargs={"net_arch": _HIDDEN, "log_std_init": SAC_LOG_STD},
        **SAC_SETTINGS,
        **common,
    )
    _set_bias(_last_layer(model.actor.mu), math.atanh(first_action))
    return model


def _last_layer(module: nn.Module) -> nn.Linear:
    """The linear layer of a policy's output, which SAC may follow by a bound."""
    return next(part for part in module.modules() if isinstance(part, nn.Linear))


def _set_bias(layer: Any, value: float) -> None:
    with torch.no_grad():
        layer.bias.fill_(value)
        layer.weight.mul_(1e-2)  # SAC starts with large weights; those of PPO are small already


def policy_layers(model: BaseAlgorithm) -> tuple[list[nn.Linear], str, str]:
    """Linear layers of the deterministic policy, their activation and that of the output."""
    policy: Any = model.policy
    if isinstance(model, PPO):
        body, head, kinds = policy.mlp_extractor.policy_net, policy.action_net, ("tanh", "clip")
    else:
        body, head, kinds = policy.actor.latent_pi, _last_layer(policy.actor.mu), ("relu", "tanh")
    hidden = [part for part in body if isinstance(part, nn.Linear)]
    return [*hidden, head], *kinds


def export_policy(model: BaseAlgorithm, **settings: Any) -> Policy:
    """The deterministic policy as arrays; `settings` are those of `PolicySettings`."""
    layers, activation, output = policy_layers(model)
    return Policy(
        PolicySettings(activation=activation, output=output, **settings),  # pyright: ignore[reportArgumentType]
        tuple(_array(layer.weight) for layer in layers),
        tuple(_array(layer.bias) for layer in layers),
    )


def _array(tensor: torch.Tensor) -> NDArray[np.float32]:
    return tensor.detach().cpu().numpy().copy()


def save_checkpoint(model: BaseAlgorithm, path: Path) -> None:
    """Writes what `load_checkpoint` needs; the file is whole at any moment."""
    state: dict[str, Any] = {
        "steps": model.num_timesteps,
        "parameters": model.get_parameters(),
        "variables": {name: getattr(model, name).detach() for name in _variables(model)},
    }
    if isinstance(model, SAC):
        buffer: Any = model.replay_buffer
        size = buffer.buffer_size if buffer.full else buffer.pos
        arrays = {name: torch.from_numpy(getattr(buffer, name)[:size]) for name in _TRANSITIONS}
        state["transitions"] = {**arrays, "next": torch.tensor(buffer.pos)}
    write_atomically(path, lambda partial: torch.save(state, partial))


def load_checkpoint(model: BaseAlgorithm, path: Path) -> None:
    """Puts an algorithm made with the same settings where another one was.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or of other settings; names it.
    """
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
        model.set_parameters(state["parameters"])
        for name in _variables(model):
            getattr(model, name).data.copy_(state["variables"][name])
        if isinstance(model, SAC):
            _restore_transitions(model.replay_buffer, state["transitions"])
        model.num_timesteps = int(state["steps"])
    except FileNotFoundError:
        raise
    except Exception as error:  # whatever torch and the library stumble over
        raise ValueError(f"{path}: damaged, or of other settings ({error})") from error


def _variables(model: BaseAlgorithm) -> list[str]:
    """Tensors that are no module's: SAC's weight of entropy."""
    return list(model._get_torch_save_params()[1])


def _restore_transitions(buffer: Any, saved: dict[str, torch.Tensor]) -> None:
    size = min(len(saved["rewards"]), buffer.buffer_size)
    for name in _TRANSITIONS:
        getattr(buffer, name)[:size] = saved[name][:size].numpy()
    buffer.full = size == buffer.buffer_size
    buffer.pos = int(saved["next"]) % buffer.buffer_size if buffer.full else size


class Between(BaseCallback):
    """Reports the steps, and calls back where nothing is half done.

    Args:
        advance: called with the number of new steps.
        between: called with the number of steps done, before campaigns are played and at the end.
    """

    def __init__(self, advance: Callable[..., None], between: Callable[[int], None]) -> None:
        super().__init__()
        self._advance, self._between = advance, between

    def _on_step(self) -> bool:
        self._advance(self.training_env.num_envs)
        return True

    def _on_rollout_start(self) -> None:
        self._between(self.num_timesteps)

    def _on_training_end(self) -> None:
        self._between(self.num_timesteps)
