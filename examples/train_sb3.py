"""Train a bidding policy with stable-baselines3, and see what it gets on seeds it has not met.

Run: python examples/train_sb3.py --steps 50000

`adsim train` does the same with other settings, checkpoints, logs and a learning curve.
"""

import numpy as np
import typer
from stable_baselines3 import PPO

import adsim  # noqa: F401 - registers the environments
from scenarios.build import make_pacing_vector_env
from scenarios.rl import PacingVecEnv

REFERENCE = -0.27  # log10 of the multiplier that is played along, about what spends the budget


def expected_net_value(model: PPO, keys: dict[str, int]) -> float:
    """Mean over ten campaigns with seeds of their own."""
    env = PacingVecEnv(make_pacing_vector_env(10, overrides=keys, autoreset_mode="SameStep"))
    env.seed(1_000)
    inputs, over = env.reset(), False
    while not over:
        actions, _ = model.predict(np.asarray(inputs), deterministic=True)
        inputs, _, dones, infos = env.step(actions)
        over = bool(dones.all())
    return float(np.mean([info["episode"]["expected_net_value"] for info in infos]))


def main(steps: int = 50_000, ticks: int = 336, num_envs: int = 8, seed: int = 1) -> None:
    """Trains on `default` and prints what the policy gets per campaign."""
    keys = {"time.num_ticks": ticks}
    campaigns = make_pacing_vector_env(num_envs + 1, overrides=keys, autoreset_mode="SameStep")
    model = PPO(
        "MlpPolicy",
        PacingVecEnv(campaigns, reference=REFERENCE),
        n_steps=ticks,  # whole campaigns
        batch_size=ticks * num_envs // 4,
        n_epochs=4,
        gamma=1.0,
        gae_lambda=1.0,
        use_sde=True,  # exploration that lasts for a campaign
        policy_kwargs={"log_std_init": -4.0},
        seed=seed,
        device="cpu",
    )
    print(f"before: expected net value {expected_net_value(model, keys):.0f}")
    model.learn(steps)
    print(f"after {model.num_timesteps} steps: {expected_net_value(model, keys):.0f}")


if __name__ == "__main__":
    typer.run(main)
