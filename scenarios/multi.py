"""Several controlled campaigns in one auction, as a PettingZoo `ParallelEnv`.

The campaigns take the places of the advertisers 0..k-1 of the population market, each with its own
catalogue; the others keep their scripted rivals. Worlds of one batch share the auctions
(`SyntheticSource`, `shared`), so that the dynamics are those of the single environments.
"""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from gymnasium.utils import seeding

from adsim.config import WorldConfig
from adsim.env import row_of
from adsim.history import make_campaigns
from adsim.ledger import NetValueStatement
from adsim.observation import AuctionView, PacingView
from adsim.oracle import Oracle
from adsim.outcome import TickOutcome
from adsim.rng import campaign_seeds
from adsim.source import SyntheticSource
from adsim.types import Campaign, PriceHistory
from adsim.world import World
from scenarios.build import announce_compilation, make_rivals, resolve

try:
    from pettingzoo import ParallelEnv
except ImportError as error:
    raise ImportError('several campaigns need PettingZoo: pip install "adsim[multi]"') from error


Infos = dict[str, dict[str, Any]]


class CampaignsEnv(ParallelEnv[str, Any, np.ndarray]):
    """Campaigns that bid for the same impressions; agents are `campaign_0` to `campaign_{k-1}`.

    All campaigns have the terms of `campaign` (budget, margin, targets). In a tick they are shown
    the same users, contexts and moments, but the items of their own catalogues, with platform
    estimates of their own. Each is told of its own wins, clicks, purchases and refunds only, and is
    paid its own net value on a cash basis. What becomes of an impression is a function of the seed,
    the impression and the campaign that wins it. `campaign_0` has the randomness of the single
    environments: alone (k = 1) it plays the same campaigns as they do, bit for bit.

    Observations, actions, rewards and infos are those of Auction-v0, or of Pacing-v0. All campaigns
    end with the last tick. `reset` takes no options; those given are ignored.

    Raises:
        ValueError: rewards on another basis.

    Args:
        world: of a population market, its worlds sharing their auctions; see `make_campaigns_env`.
        pacing: one multiplier per tick as in Pacing-v0, instead of a bid per impression.

    Attributes:
        campaigns: the terms of each agent, price history included, as `Agent.reset` takes them.
    """

    metadata = {"name": "adsim_campaigns_v0", "render_modes": []}  # noqa: RUF012 - PettingZoo's type

    def __init__(self, world: World, *, pacing: bool = False) -> None:
        if world.config.reward != "cash":
            raise ValueError(f"reward must be 'cash' for campaigns, got {world.config.reward!r}")
        self.world = world
        self.possible_agents = [f"campaign_{index}" for index in range(world.num_worlds)]
        self.agents: list[str] = []
        self._rows = np.arange(world.num_worlds)
        terms = make_campaigns(world, world.num_worlds)
        self.campaigns: dict[str, Campaign] = dict(zip(self.possible_agents, terms, strict=True))
        self.view = PacingView(world, _pooled(terms)) if pacing else AuctionView(world, terms[0])
        # A copy each: sampling from the space of one agent must not move that of another.
        self.observation_spaces = self._copies(self.view.observation_space)
        self.action_spaces = self._copies(self.view.action_space)
        self.np_random, _ = seeding.np_random()

    def _copies(self, space: spaces.Space[Any]) -> dict[str, Any]:
        return {agent: deepcopy(space) for agent in self.possible_agents}

    def observation_space(self, agent: str) -> spaces.Space[Any]:
        """The space of an agent's observations, always the same object."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> spaces.Space[Any]:
        """The space of an agent's actions, always the same object."""
        return self.action_spaces[agent]

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], Infos]:
        """Starts an episode; its seed is drawn once, as by the single environments."""
        if seed is not None:
            self.np_random, _ = seeding.np_random(seed)
        episode_seed = int(self.np_random.integers(2**63))
        self.world.reset(self._rows, campaign_seeds(episode_seed, self._rows.size))
        self.view.restart(self._rows)
        self.agents = list(self.possible_agents)
        return self._observations(), self._infos(None)

    def step(
        self, actions: dict[str, np.ndarray]
    ) -> tuple[dict[str, Any], dict[str, float], dict[str, bool], dict[str, bool], Infos]:
        """Plays one tick.

        Args:
            actions: one of every agent.

        Raises:
            ResetNeeded: before the first reset, or after the end.
            ValueError: an action is missing, too many, or outside its space.
        """
        if not self.agents:
            raise ResetNeeded("step: call reset() first")
        if actions.keys() != set(self.agents):
            raise ValueError(f"actions must be of {self.agents}, got {sorted(actions)}")
        for agent, action in actions.items():
            if np.shape(action) != self.action_spaces[agent].shape:
                shape = self.action_spaces[agent].shape
                raise ValueError(f"{agent}: action must have shape {shape}, got {np.shape(action)}")
        stacked = np.stack([np.asarray(actions[agent], np.float64) for agent in self.agents])
        bids = self.view.bids(stacked, np.ones(self._rows.size, np.bool_))
        self.view.before()
        outcome = self.world.play(bids, self._rows)
        self.view.note(outcome, self._rows)
        results = (
            self._observations(),
            dict(zip(self.agents, outcome.reward.tolist(), strict=True)),
            dict(zip(self.agents, outcome.done.tolist(), strict=True)),
            dict.fromkeys(self.agents, False),
            self._infos(outcome),
        )
        if outcome.done.any():  # all at once: they have one clock
            self.agents = []
        return results

    def _observations(self) -> dict[str, Any]:
        shown: Any = self.view.observation()
        rows = (
            {name: array[row] for name, array in shown.items()}
            if isinstance(shown, dict)
            else shown[row]
            for row in self._rows
        )
        return dict(zip(self.possible_agents, rows, strict=True))

    def _infos(self, outcome: TickOutcome | None) -> Infos:
        batch = self.view.info(outcome, self._rows)
        return {a: row_of(batch, row) for row, a in enumerate(self.possible_agents)}

    def statement(self, agent: str) -> NetValueStatement:
        """The closing statement of an agent's campaign.

        Raises:
            RuntimeError: the campaign is not over.
        """
        return self.world.statement(self.possible_agents.index(agent))

    def oracle(self, agent: str) -> Oracle:
        """Privileged knowledge of an agent's campaign; see `adsim.oracle.Oracle`."""
        return Oracle(self.world, self.possible_agents.index(agent))


def _pooled(terms: list[Campaign]) -> Campaign:
    """The common terms with the history of all campaigns, which scales their observations."""
    histories = [campaign.price_history for campaign in terms]
    columns = [np.concatenate(column) for column in list(zip(*histories, strict=True))[:4]]
    ctr, cpc = (float(np.mean([getattr(h, name) for h in histories])) for name in ("ctr", "cpc"))
    return terms[0]._replace(price_history=PriceHistory(*columns, ctr=ctr, cpc=cpc))


def make_campaigns_env(
    num_campaigns: int = 2,
    scenario: str = "population",
    overrides: Mapping[str, Any] | None = None,
    *,
    pacing: bool = False,
) -> CampaignsEnv:
    """Controlled campaigns in one auction of a scenario with a population market.

    Args:
        num_campaigns: k, from 1 to the number of advertisers.
        scenario: name or path.
        overrides: dotted configuration keys to values.
        pacing: see `CampaignsEnv`.

    Raises:
        ValueError: another market, or more campaigns than advertisers.
    """
    if num_campaigns < 1:
        raise ValueError(f"num_campaigns must be >= 1, got {num_campaigns}")
    config: WorldConfig = resolve(scenario, overrides).world
    source = SyntheticSource(config, num_campaigns, shared=True)
    announce_compilation()
    rivals = make_rivals(config, source, num_campaigns)
    world = World(config, num_campaigns, source=source, rivals=rivals)
    return CampaignsEnv(world, pacing=pacing)
