"""A bidding agent of one's own: bids a multiple of the value, and corrects it when spend runs off.

Run: python examples/custom_agent.py
Or:  adsim run default --agent examples/custom_agent.py:SteadyAgent --agent dual --seeds 0-4
"""

from typing import Any

import gymnasium as gym
import numpy as np
import typer

import adsim  # noqa: F401 - registers the environments
from adsim.checks import check_agent
from adsim.types import Campaign, FloatArray


class SteadyAgent:
    """Spends along the expected traffic: after each tick the factor moves by 5 %."""

    privileged = False  # uses nothing but what is observed

    def reset(self, campaign: Campaign, *, seed: int | None = None) -> None:
        """Starts a campaign."""
        self.campaign, self.factor, self.tick, self.spent = campaign, 0.5, 0, 0.0
        self.plan = np.cumsum(campaign.expected_traffic) * (
            campaign.budget / campaign.expected_traffic.sum()
        )

    def act(self, obs: dict[str, Any]) -> FloatArray:
        """Bids (M,), currency per impression."""
        # What predictors say an impression is worth, if there are any; else the platform.
        value = obs.get("expected_net_value")
        if value is None:
            value = obs["pctr"] * obs["pcvr"] * obs["list_price"] * self.campaign.margin
        self.spent = self.campaign.budget - float(obs["budget_left"][0])
        return np.minimum(self.factor * value, self.campaign.max_bid)

    def observe(self, info: dict[str, Any]) -> None:
        """Compares spend with the plan; called once before the first tick, too."""
        result = info["result"]
        spent = self.spent + float(result.price[result.won].sum())
        if self.tick > 0:
            ahead = spent > self.plan[min(self.tick, self.plan.size) - 1]
            self.factor = float(np.clip(self.factor * (0.95 if ahead else 1.05), 0.01, 1.0))
        self.tick += 1


def main(scenario: str = "default", ticks: int = 336, seed: int = 0) -> None:
    """Checks the agent's contract, then plays a campaign."""

    def make_env(ticks: int) -> gym.Env:
        return gym.make("adsim/Auction-v0", scenario=scenario, overrides={"time.num_ticks": ticks})

    check_agent(SteadyAgent, lambda: make_env(8))
    env, agent = make_env(ticks), SteadyAgent()
    obs, info = env.reset(seed=seed)
    agent.reset(env.unwrapped.campaign, seed=seed)
    agent.observe(info)
    over = False
    while not over:
        obs, _, over, _, info = env.step(agent.act(obs))
        agent.observe(info)
    statement = env.unwrapped.statement()
    print(f"spent {statement.spend:.0f} of {statement.budget:.0f}")
    print(f"net value {statement.net_value:.0f}, expected {statement.expected_net_value:.0f}")


if __name__ == "__main__":
    typer.run(main)
