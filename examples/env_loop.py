"""The loop: bid a share of the platform's value, tick by tick, and read the closing statement.

Run: python examples/env_loop.py --factor 0.6
"""

import gymnasium as gym
import numpy as np
import typer

import adsim  # noqa: F401 - registers the environments


def main(scenario: str = "default", ticks: int = 336, factor: float = 0.6, seed: int = 0) -> None:
    """Plays one campaign with constant bids."""
    env = gym.make("adsim/Auction-v0", scenario=scenario, overrides={"time.num_ticks": ticks})
    obs, info = env.reset(seed=seed)
    campaign = env.unwrapped.campaign
    rewards, purchases, over = 0.0, 0, False
    while not over:
        # currency per shown impression; slots without an impression have a pCTR of 0
        value = obs["pctr"] * obs["pcvr"] * obs["list_price"] * campaign.margin
        bids = np.minimum(factor * value, campaign.max_bid)
        obs, reward, over, _, info = env.step(bids)
        rewards += reward
        purchases += int((info["feedback"].kind == 1).sum())  # seen in this tick, whenever clicked
    statement = env.unwrapped.statement()
    print(f"{statement.wins} impressions won for {statement.spend:.0f}, {statement.clicks} clicks")
    print(f"{purchases} purchases, {statement.refunds} of them refunded")
    print(f"net value {statement.net_value:.2f} = sum of the rewards {rewards:.2f}")


if __name__ == "__main__":
    typer.run(main)
