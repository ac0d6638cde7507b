"""PPO in one file, after CleanRL's ppo_continuous_action.py, on the environment as it is.

Run: python examples/ppo_cleanrl_style.py --steps 200000

Source: S. Huang et al., "CleanRL", JMLR 23, 2022. What differs: rewards are divided by the budget,
nothing is discounted, and the first action is one that about spends it.
"""

import gymnasium as gym
import numpy as np
import torch
import typer
from torch import nn

import adsim  # noqa: F401 - registers the environments

LEARNING_RATE, EPOCHS, MINIBATCHES, CLIP, GAE_LAMBDA, VALUE_WEIGHT = 3e-4, 4, 8, 0.2, 0.95, 0.5
FIRST_ACTION, LOG_STD = -0.27, -3.0


def layers(inputs: int, outputs: int, last_sd: float) -> nn.Sequential:
    """Two hidden layers of 64, initialised as CleanRL does."""
    net = nn.Sequential(
        *(nn.Linear(inputs, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, outputs))
    )
    for layer, sd in zip(net[::2], (2**0.5, 2**0.5, last_sd), strict=True):
        nn.init.orthogonal_(layer.weight, sd)
        nn.init.zeros_(layer.bias)
    return net


class ActorCritic(nn.Module):
    """A normal policy with a mean that depends on the observation, and a value function."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.mean, self.critic = layers(inputs, outputs, 0.01), layers(inputs, 1, 1.0)
        nn.init.constant_(self.mean[-1].bias, FIRST_ACTION)
        self.log_std = nn.Parameter(torch.full((1, outputs), LOG_STD))

    def forward(self, obs: torch.Tensor) -> tuple[torch.distributions.Normal, torch.Tensor]:
        """The distribution of the action, and the value (E,)."""
        mean = self.mean(obs)
        spread = self.log_std.exp().expand_as(mean)
        return torch.distributions.Normal(mean, spread), self.critic(obs)[:, 0]


def advantages_of(
    rewards: torch.Tensor, values: torch.Tensor, ends: torch.Tensor, last: torch.Tensor
) -> torch.Tensor:
    """Generalised advantage estimates (T, E), undiscounted."""
    out, gae, following = torch.zeros_like(rewards), torch.zeros_like(last), last
    for t in reversed(range(len(rewards))):
        going_on = 1.0 - ends[t]
        gae = rewards[t] + going_on * following - values[t] + GAE_LAMBDA * going_on * gae
        out[t], following = gae, values[t]
    return out


def main(
    scenario: str = "default", steps: int = 200_000, ticks: int = 336, envs: int = 8, seed: int = 1
) -> None:
    """Trains, and prints the net value per campaign as it goes."""
    torch.manual_seed(seed)
    env = gym.make_vec(
        "adsim/Pacing-v0",
        num_envs=envs,
        autoreset_mode="SameStep",
        scenario=scenario,
        overrides={"time.num_ticks": ticks},
    )
    budget = env.unwrapped.terms.budget
    agent = ActorCritic(env.single_observation_space.shape[0], env.single_action_space.shape[0])
    optimiser = torch.optim.Adam(agent.parameters(), lr=LEARNING_RATE, eps=1e-5)
    obs = torch.as_tensor(env.reset(seed=seed)[0])
    for update in range(max(steps // (ticks * envs), 1)):
        rows: list[list[torch.Tensor]] = []
        for _ in range(ticks):
            with torch.no_grad():
                policy, value = agent(obs)
                action = policy.sample()
            bid = np.clip(action.numpy(), -1.0, 1.0)
            following, reward, terminated, _, _ = env.step(bid)
            earned = torch.as_tensor(reward / budget, dtype=torch.float32)
            ended = torch.as_tensor(terminated, dtype=torch.float32)
            rows.append([obs, action, policy.log_prob(action).sum(1), value, earned, ended])
            obs = torch.as_tensor(following)
        seen, actions, log_probs, values, rewards, ends = map(torch.stack, zip(*rows, strict=True))
        with torch.no_grad():
            advantages = advantages_of(rewards, values, ends, agent(obs)[1])
        data = (seen, actions, log_probs, advantages, advantages + values)
        flat = [part.flatten(0, 1) for part in data]
        for _ in range(EPOCHS):
            for rows_of in torch.randperm(ticks * envs).chunk(MINIBATCHES):
                improve(agent, optimiser, *(part[rows_of] for part in flat))
        net_value = float(rewards.sum(0).mean()) * budget
        print(f"{(update + 1) * ticks * envs} steps: net value {net_value:.0f}")


def improve(
    agent: ActorCritic,
    optimiser: torch.optim.Optimizer,
    obs: torch.Tensor,
    actions: torch.Tensor,
    log_probs: torch.Tensor,
    advantages: torch.Tensor,
    returns: torch.Tensor,
) -> None:
    """One step on a minibatch."""
    policy, value = agent(obs)
    ratio = (policy.log_prob(actions).sum(1) - log_probs).exp()
    gain = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    clipped = ratio.clamp(1 - CLIP, 1 + CLIP)
    loss = -torch.minimum(gain * ratio, gain * clipped).mean()
    loss = loss + VALUE_WEIGHT * 0.5 * (value - returns).pow(2).mean()
    optimiser.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
    optimiser.step()


if __name__ == "__main__":
    typer.run(main)
