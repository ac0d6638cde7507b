"""Two campaigns in one auction: which agent earns more when they bid against each other?

Each campaign has a catalogue of its own, so both agents play both places.

Needs PettingZoo: pip install "adsim[multi]"

Run: python examples/two_campaigns.py --first dual --second value
"""

import typer

from scenarios.build import make_agent
from scenarios.multi import CampaignsEnv, make_campaigns_env


def play(env: CampaignsEnv, players: list[str], seed: int) -> None:
    """One episode: players[i] runs campaign_i, among scripted rivals."""
    obs, infos = env.reset(seed=seed)
    agents = {name: make_agent(player) for name, player in zip(env.agents, players, strict=True)}
    for name, agent in agents.items():
        agent.reset(env.campaigns[name], seed=seed)
        agent.observe(infos[name])
    while env.agents:  # empty when the campaigns are over
        bids = {name: agents[name].act(obs[name]) for name in env.agents}
        obs, *_, infos = env.step(bids)
        for name, agent in agents.items():
            agent.observe(infos[name])


def main(first: str = "dual", second: str = "value", ticks: int = 96, seed: int = 0) -> None:
    """Plays both agents against each other, in both places."""
    # The scenario's budget is for 336 ticks.
    overrides = {"time.num_ticks": ticks, "campaign.budget": 2000 * ticks / 336}
    env = make_campaigns_env(2, "population", overrides)
    earned = {first: 0.0, second: 0.0}
    for players in ([first, second], [second, first]):
        play(env, players, seed)
        for name, player in zip(env.possible_agents, players, strict=True):
            end = env.statement(name)
            earned[player] += end.expected_net_value
            print(
                f"{name}, {player}: {end.wins} impressions for {end.spend:.0f}, "
                f"net value {end.net_value:.0f}, expected {end.expected_net_value:.0f}"
            )
    for player, value in earned.items():
        print(f"{player}: expected net value {value:.0f} in both places")


if __name__ == "__main__":
    typer.run(main)
