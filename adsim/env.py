"""The single environments: AuctionEnv (one bid per impression) and PacingEnv (one multiplier)."""

import json
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import gymnasium as gym
import numpy as np
from gymnasium.error import ResetNeeded

from adsim.history import episode_campaign, make_campaign
from adsim.ledger import NetValueStatement
from adsim.observation import AuctionView, PacingView
from adsim.oracle import Oracle
from adsim.types import Campaign, FloatArray
from adsim.value_source import ValueSource
from adsim.world import World

_FIRST = np.array([0])
_STATE_FORMAT = 2


class CampaignEnv(gym.Env[Any, np.ndarray]):
    """What both environments share: the clock, the statement, saving and drawing."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 4}  # noqa: RUF012 - gymnasium's type
    view: AuctionView | PacingView

    def __init__(self, world: World, render_mode: str | None = None) -> None:
        if world.num_worlds != 1:
            raise ValueError(f"world.num_worlds must be 1, got {world.num_worlds}")
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            raise ValueError(f"render_mode must be None or 'rgb_array', got {render_mode!r}")
        self.world, self.render_mode = world, render_mode
        self.terms = make_campaign(world)
        self._campaign: Campaign | None = self.terms
        self._started = False

    @property
    def campaign(self) -> Campaign:
        """What an agent is told of the current episode before it starts."""
        if self._campaign is None:
            self._campaign = episode_campaign(self.world, self.terms)
        return self._campaign

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Starts an episode; its seed is drawn once from `np_random`."""
        super().reset(seed=seed)
        episode_seed = int(self.np_random.integers(2**63))
        self.world.source.choose(0, options or {})
        self.world.reset(_FIRST, [episode_seed])
        self._campaign = None
        self.view.restart(_FIRST)
        self._started = True
        return self._observation(), self._info(None)

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Plays one tick; see the class docstring."""
        if not self._started:
            raise ResetNeeded("step: call reset() before the first step()")
        if self.world.tick[0] >= self.world.num_ticks:
            raise ResetNeeded("step: the campaign is over, call reset()")
        action = np.asarray(action, dtype=np.float64)
        if action.shape != self.action_space.shape:
            raise ValueError(
                f"action must have shape {self.action_space.shape}, got {action.shape}"
            )
        bids = self.view.bids(action[None], np.array([True]))
        self.view.before()
        outcome = self.world.play(bids, _FIRST, self.view.click_values())
        self.view.note(outcome, _FIRST)
        done = bool(outcome.done[0])
        return self._observation(), float(outcome.reward[0]), done, False, self._info(outcome)

    def _observation(self) -> Any:
        obs = self.view.observation()
        if isinstance(obs, dict):
            return {name: array[0] for name, array in obs.items()}
        return obs[0]

    def _info(self, outcome: Any) -> dict[str, Any]:
        return row_of(self.view.info(outcome, _FIRST), 0)

    @property
    def privileged(self) -> bool:
        """Whether its estimates or its rewards are made of the truth."""
        return self.view.privileged or self.world.config.reward == "accrual"

    def statement(self) -> NetValueStatement:
        """The closing statement.

        Raises:
            RuntimeError: the campaign is not over.
        """
        if not self._started:
            raise RuntimeError("statement: the campaign is not over yet")
        return self.world.statement(0)

    def oracle(self) -> Oracle:
        """Privileged knowledge of the episode; whoever uses it must carry `privileged = True`."""
        return Oracle(self.world, 0)

    def get_state(self) -> dict[str, Any]:
        """Everything that determines the future: arrays, and JSON-plain values under "meta"."""
        arrays = self.world.get_state()
        arrays |= {f"view.{k}": v for k, v in self.view.get_state().items()}
        meta = {
            "format": _STATE_FORMAT,
            "environment": type(self).__name__,
            "started": self._started,
            "np_random": self.np_random.bit_generator.state,
            "config": self.world.config.model_dump_json(),
        }
        return {"meta": meta, **arrays}

    def set_state(self, state: dict[str, Any]) -> None:
        """Restores what `get_state` returned; the episode continues bit for bit.

        Raises:
            ValueError: the state belongs to another configuration or format.
        """
        meta = state["meta"]
        missing = {"format", "environment", "config", "np_random", "started"} - set(meta)
        if missing:
            raise ValueError(f"state: meta lacks {sorted(missing)}")
        if meta.get("format") != _STATE_FORMAT:
            raise ValueError(f"state: format must be {_STATE_FORMAT}, got {meta.get('format')}")
        if meta["environment"] != type(self).__name__:
            raise ValueError(f"state: saved from a {meta['environment']}")
        if meta["config"] != self.world.config.model_dump_json():
            raise ValueError("state: saved from an environment of another configuration")
        arrays = {name: value for name, value in state.items() if name != "meta"}
        self.np_random.bit_generator.state = meta["np_random"]
        self._started = bool(meta["started"])
        self._campaign = None if self._started else self.terms
        self.world.set_state(arrays)
        self.view.set_state(
            {k.removeprefix("view."): v for k, v in arrays.items() if k.startswith("view.")}
        )

    def save(self, path: str | Path) -> None:
        """Writes the state to an .npz file (arrays and JSON, no code)."""
        state = self.get_state()
        meta = np.frombuffer(json.dumps(state.pop("meta")).encode(), dtype=np.uint8)
        target = Path(path)
        partial = target.with_name(target.name + ".partial")
        with partial.open("wb") as file:
            np.savez_compressed(file, meta=meta, **state)
        partial.replace(target)

    def load(self, path: str | Path) -> None:
        """Restores what `save` wrote.

        Raises:
            ValueError: not a state file, or of another configuration.
        """
        try:
            with Path(path).open("rb") as raw, np.load(raw, allow_pickle=False) as file:
                state: dict[str, Any] = {name: file[name] for name in file.files}
            state["meta"] = json.loads(state["meta"].tobytes().decode())
        except (ValueError, KeyError, EOFError, AttributeError, BadZipFile) as error:
            raise ValueError(f"{path}: not a saved environment") from error
        self.set_state(state)

    def render(self) -> Any:
        """The campaign so far as an RGB image (H, W, 3), if render_mode is "rgb_array"."""
        if self.render_mode is None:
            return None
        if not self._started:
            raise ResetNeeded("render: call reset() first")
        from adsim.rendering import draw_campaign

        return draw_campaign(self.world)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__.copy()


def row_of(info: dict[str, Any], index: int) -> dict[str, Any]:
    """The entry of one world of batched infos."""
    single: dict[str, Any] = {}
    for name, value in info.items():
        if isinstance(value, dict):
            single[name] = row_of(value, index)
        else:
            single[name] = value[index] if value.dtype.kind == "O" else value.item(index)
    return single


class AuctionEnv(CampaignEnv):
    """One bid per impression, with delayed conversions, refunds and repurchases.

    ## Description
    A budgeted advertiser bids on the impressions of each tick. Won impressions may be clicked; a
    click may lead to purchases hours or days later, and each purchase may be refunded. Feedback
    arrives when it would be seen in reality. As a constrained MDP: the state is the hidden world,
    the campaign's budget is a hard constraint enforced inside the tick, and the return is the
    campaign's net value, margin x (GMV - refunds) - spend.

    ## Action Space
    `Box(0, max_bid, (M,), float64)`: bids in currency per shown impression, or per click if the
    market charges per click. Bids in padding slots are ignored.

    ## Observation Space
    A `Dict`; M is the number of slots, F the number of categorical fields (22 by default):

    | key | shape | unit |
    |---|---|---|
    | features | (M, F) int32 | categorical ids |
    | scene | (M,) int32 | traffic placement |
    | mask | (M,) int8 | 1 = impression, 0 = padding |
    | time_hours | (M,) | hours since the campaign started |
    | pctr, pctr_std | (M,) | the platform's CTR estimate; sd of its logit noise |
    | pcvr, pcvr_std | (M,) | the platform's CVR estimate; sd of its logit noise |
    | list_price | (M,) | list price of the item to be shown, currency |
    | tick_fraction | (1,) | share of the ticks that are over |
    | budget_left | (1,) | currency |
    | last_spend, last_wins, last_clicks | (1,) | of the last tick: currency, counts |
    | last_gmv, last_refunded | (1,) | amounts seen in the last tick, currency |

    ## Starting State
    The structure (users, items, hidden effects, drift) is fixed by the configuration's
    `structure_seed`; `reset` draws one episode seed from `np_random`, which determines traffic and
    potential outcomes. Nothing random depends on the bids.

    ## Rewards
    Cash basis (default): margin x (purchases - refunds seen in the tick) - spend of the tick; the
    last step drains the queue of pending events, so that the rewards sum to the statement's net
    value. `reward = "accrual"` credits an impression at once with its realised net value,
    `reward = "estimated"` a click with its predicted one, to be corrected: `adsim.credit`.

    ## Episode End
    `terminated` after the last tick. A campaign without budget runs on: feedback still arrives.

    ## Information
    `feedback`: EventBatch of what became observable; `result`: AuctionResult of the tick;
    `reward_terms`: dict of named terms that sum to the reward. The keys are the same at reset.

    ## Arguments
    `gymnasium.make("adsim/Auction-v0", scenario="default", overrides=None, render_mode=None)`;
    `overrides` maps dotted configuration keys to values; with `estimates`, a name of
    `scenarios.stacks.STACKS` other than "platform", the entries `ctr`, `cvr`, `refund_rate`, `gmv`
    and `expected_net_value` (M,) are added to the observation.

    ## Version History
    v0: first version.
    """

    def __init__(
        self,
        world: World,
        render_mode: str | None = None,
        *,
        value_source: ValueSource | None = None,
    ) -> None:
        super().__init__(world, render_mode)
        self.view = AuctionView(world, self.terms, value_source)
        self.observation_space, self.action_space = (
            self.view.observation_space,
            self.view.action_space,
        )

    def credit(self, click_values: FloatArray) -> None:
        """Has the next tick's estimated rewards credit these predictions instead of its own.

        Args:
            click_values: (M,) predicted net value of a click, currency.
        """
        assert isinstance(self.view, AuctionView)
        self.view.credit(click_values[None])


class PacingEnv(CampaignEnv):
    """One multiplier on the value estimates per tick: what an RL library trains on directly.

    ## Description
    The world of `AuctionEnv`; bids are value estimate x max_multiplier ** action, at most max_bid.
    The value estimate of an impression is the platform's pctr x pcvr x list price x margin, or that
    of `estimates`.

    ## Action Space
    `Box(-1, 1, (k,), float32)`: k = 1, or one component per scene with `per_scene=True`. 0 bids
    the estimated value.

    ## Observation Space
    `Box` of float32 with the entries of `adsim.observation.PacingFeatures`, in order, each within
    [-1, 1] or [0, 1]: time left, budget left, spend of the last and of the last three ticks against
    plan, win rates of the same, mean value, price quantiles won, clicks, traffic, time of day and
    week, value seen but refundable, matured value, refund share, last action.

    ## Starting State
    As `AuctionEnv`.

    ## Rewards
    As `AuctionEnv`.

    ## Episode End
    As `AuctionEnv`.

    ## Information
    Of the last tick: `impressions`, `wins`, `clicks`, `spend`, `gmv`, `refunded`; `net_value` so
    far, the sum of the rewards; `reward_terms`. Numbers only, so that vector environments can stack
    them.

    ## Arguments
    `gymnasium.make("adsim/Pacing-v0", scenario="default", overrides=None, per_scene=False,
    estimates="platform", learn=False, render_mode=None)`; `estimates` is a name of
    `scenarios.stacks.STACKS`. Estimates stay as the warm-up left them, or `learn` from the
    campaign.

    ## Version History
    v0: first version.
    """

    def __init__(
        self,
        world: World,
        render_mode: str | None = None,
        *,
        per_scene: bool = False,
        value_source: ValueSource | None = None,
    ) -> None:
        super().__init__(world, render_mode)
        self.view = PacingView(world, self.terms, per_scene=per_scene, value_source=value_source)
        self.observation_space, self.action_space = (
            self.view.observation_space,
            self.view.action_space,
        )
