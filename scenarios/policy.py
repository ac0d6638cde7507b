"""A trained policy of Pacing-v0, in files without code, and the agent that plays it in Auction-v0.

A policy is a folder: `policy.npz` holds the weights of its network, `policy.json` what else has to
be known. Neither torch nor the library that trained it is needed to play it.
"""

import json
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from adsim.config import TimeConfig, WorldConfig
from adsim.ledger import COLUMN, COLUMNS
from adsim.market_config import Model
from adsim.pacing_features import PACING_SIZE, pacing_features, pacing_scales, won_summary
from adsim.traffic import tick_hours_of_week
from adsim.types import Campaign, EventBatch, EventKind, FloatArray
from agents.base import BaseAgent, impression_value
from predictors.arrays import load_arrays, save_arrays
from scenarios.results import save_json
from scenarios.schema import explain

INPUT_SIZE = PACING_SIZE + 1
WEIGHTS, SETTINGS = "policy.npz", "policy.json"
_LEAST_LEFT = 1e-3  # share of time or budget below which it counts as this share
_LAYERS = (1, 8)  # fewest and most
_WIDEST = 4_096
_ROW = np.array([0])
_SEEN = ("spend", "wins", "clicks", "impressions")  # columns that the observation needs

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class PolicySettings(Model):
    """What a policy's weights do not say: its network, and how it saw the world in training."""

    format: Literal[1] = 1
    activation: Literal["tanh", "relu"]
    """Of all layers but the last."""
    output: Literal["clip", "tanh"]
    """How the last layer becomes an action in [-1, 1]."""
    value_scale: Positive
    """Mean value of the price history in training, currency per shown impression."""
    ctr_scale: Positive
    """Its pCTR."""
    max_multiplier: Annotated[float, Field(gt=1, allow_inf_nan=False)]
    """Bid = value x max_multiplier ** action."""
    start_hour_of_week: Annotated[float, Field(ge=0, lt=168)]
    """When the campaign starts."""
    refund_hours: Positive
    """Purchase to its refund."""
    trained: dict[str, Any] = Field(default_factory=dict)
    """How it was made; not used."""


class Policy(NamedTuple):
    """A deterministic policy."""

    settings: PolicySettings
    weights: tuple[NDArray[np.float32], ...]  # (outputs, inputs) of each layer
    biases: tuple[NDArray[np.float32], ...]  # (outputs,)

    def action(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Actions (E, 1) in [-1, 1] for inputs (E, INPUT_SIZE)."""
        hidden = inputs
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            hidden = hidden @ weight.T + bias
            tanh = self.settings.activation == "tanh"
            hidden = np.tanh(hidden) if tanh else np.maximum(hidden, 0.0)
        out = hidden @ self.weights[-1].T + self.biases[-1]
        return np.tanh(out) if self.settings.output == "tanh" else np.clip(out, -1.0, 1.0)


def policy_input(obs: NDArray[np.float32]) -> NDArray[np.float32]:
    """What a policy sees (E, INPUT_SIZE), of observations (E, PACING_SIZE) of Pacing-v0.

    The last entry is log10(budget left / time left), shares both, within [-1, 1]: what a multiplier
    has to make up for. It is in the observation, too, but as a small difference of large numbers.
    """
    left = np.maximum(obs[:, :2], _LEAST_LEFT)
    pace = np.clip(np.log10(left[:, 1:] / left[:, :1]), -1.0, 1.0)
    return np.concatenate([obs, pace], axis=1, dtype=np.float32)


def save_policy(policy: Policy, folder: Path) -> None:
    """Writes a policy; each of its files is whole at any moment."""
    layers = zip(policy.weights, policy.biases, strict=True)
    arrays = {}
    for index, (weight, bias) in enumerate(layers):
        arrays |= {f"weight.{index}": weight, f"bias.{index}": bias}
    save_arrays(folder / WEIGHTS, arrays)
    save_json(policy.settings.model_dump(mode="json"), folder / SETTINGS)


def load_policy(folder: Path) -> Policy:
    """A policy that `save_policy` wrote; nothing in its files is executed.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is damaged or does not fit; names it.
    """
    path = folder / SETTINGS
    try:
        settings = PolicySettings.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        raise ValueError(f"{path}: {explain(error)}") from error
    except ValueError as error:  # not JSON, not UTF-8
        raise ValueError(f"{path}: damaged: {error}") from error
    arrays = load_arrays(folder / WEIGHTS)
    count = len(arrays) // 2
    names = {f"{part}.{index}" for part in ("weight", "bias") for index in range(count)}
    if set(arrays) != names or not _LAYERS[0] <= count <= _LAYERS[1]:
        raise ValueError(
            f"{folder / WEIGHTS}: must hold weight.i and bias.i of {_LAYERS[0]} to {_LAYERS[1]} "
            f"layers, has {', '.join(sorted(arrays)[:20])}"
        )
    weights = tuple(arrays[f"weight.{index}"] for index in range(count))
    biases = tuple(arrays[f"bias.{index}"] for index in range(count))
    _check_layers(weights, biases, folder / WEIGHTS)
    return Policy(settings, weights, biases)


def _check_layers(weights: tuple[Any, ...], biases: tuple[Any, ...], path: Path) -> None:
    """Shapes and numbers of the layers, from INPUT_SIZE inputs to one output."""
    size = INPUT_SIZE
    for index, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        last = index == len(weights) - 1
        outputs = 1 if last else min(weight.shape[0] if weight.ndim else 0, _WIDEST)
        for name, array, shape in (("weight", weight, (outputs, size)), ("bias", bias, (outputs,))):
            if array.shape != shape or array.dtype != np.float32:
                raise ValueError(
                    f"{path}: {name}.{index} must be float32 of shape {shape}, "
                    f"got {array.dtype} of {array.shape}"
                )
            if not np.isfinite(array).all():
                raise ValueError(f"{path}: {name}.{index} must be finite")
        size = outputs


class PolicyAgent(BaseAgent):
    """Plays a trained policy: the observation of Pacing-v0 is made of that of Auction-v0.

    Values are measured by the scales of the training, so that the actions on the training's
    campaign are those in Pacing-v0.

    Args:
        folder: of a policy.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is damaged or does not fit.
    """

    def __init__(self, folder: Path) -> None:
        self.policy = load_policy(folder)

    def reset(self, campaign: Campaign, *, seed: int | None = None) -> None:
        """Starts a campaign."""
        super().reset(campaign, seed=seed)
        settings = self.policy.settings
        clock = TimeConfig(
            num_ticks=campaign.num_ticks,
            tick_hours=campaign.tick_hours,
            start_hour_of_week=settings.start_hour_of_week,
        )
        scales = (settings.value_scale, settings.ctr_scale)
        self._scales = pacing_scales(campaign, tick_hours_of_week(WorldConfig(time=clock)), scales)
        self._tick = 0
        self._recent = np.zeros((1, 3, len(COLUMNS)))  # last three ticks, newest first
        self._memory = np.zeros((1, 5))  # what was won in the last tick, and the last action
        self._seen = np.zeros((2, 1))  # GMV and refunds seen, currency
        self._books = PurchaseBooks(campaign, settings.refund_hours)
        self._offered = 0
        self._value: FloatArray | None = None  # (1, M) of the tick to be played

    def act(self, obs: dict[str, Any]) -> FloatArray:
        """Bids (M,), currency: value x max_multiplier ** action, at most the highest bid."""
        if self._tick:
            self._note(obs)
        value = np.ascontiguousarray(impression_value(obs, self.campaign.margin)[None])
        self._value, self._offered = value, int(np.count_nonzero(obs["mask"]))
        action = float(self.policy.action(policy_input(self.features(obs)))[0, 0])
        self._memory[0, 4] = action
        self._tick += 1
        bids = value[0] * self.policy.settings.max_multiplier**action
        if self.campaign.charge == "click":
            pctr = np.asarray(obs["pctr"], np.float64)
            bids = np.divide(bids, pctr, out=np.zeros_like(bids), where=pctr > 0)
        return np.where(obs["mask"], np.clip(bids, 0.0, self.campaign.max_bid), 0.0)

    def _note(self, obs: dict[str, Any]) -> None:
        """The last tick's accounts."""
        self._recent[0, 1:] = self._recent[0, :2].copy()
        last = (*(float(obs[f"last_{name}"][0]) for name in _SEEN[:3]), self._offered)
        self._recent[0, 0, [COLUMN[name] for name in _SEEN]] = last
        self._seen[:, 0] += float(obs["last_gmv"][0]), float(obs["last_refunded"][0])

    def features(self, obs: dict[str, Any]) -> NDArray[np.float32]:
        """The observation (1, PACING_SIZE) of Pacing-v0, given that of Auction-v0."""
        assert self._value is not None
        campaign, out = self.campaign, np.empty((1, PACING_SIZE), np.float32)
        pacing_features(
            *(np.array([self._tick]), campaign.num_ticks, self._recent),
            np.asarray(obs["budget_left"], np.float64),
            *(campaign.budget, campaign.margin),
            *self._scales,
            *(np.array([self._offered]), self._value, self._memory, self._seen[0], self._seen[1]),
            *(np.array([self._books.matured]), out),
        )
        return out

    def observe(self, info: dict[str, Any]) -> None:
        """Takes note of what was won and of what was bought and given back."""
        if self._value is None:  # before the first tick
            return
        won, price = info["result"].won[None], info["result"].price[None]
        won_summary(_ROW, won, price, self._value, self._memory)
        self._books.post(self._tick - 1, info["feedback"])


class PurchaseBooks:
    """Net GMV by the tick of its purchase, and how much of it is final.

    Attributes:
        matured: net GMV of purchases whose refund window is closed, currency.
    """

    def __init__(self, campaign: Campaign, refund_hours: float) -> None:
        self.matured = 0.0
        self._tick_hours = campaign.tick_hours
        self._refund_ticks = int(-(-refund_hours // campaign.tick_hours))
        self._by_tick = np.zeros(campaign.num_ticks + 1)
        self._bought: dict[tuple[int, int], int] = {}  # tick of each purchase by click and order

    def post(self, tick: int, events: EventBatch) -> None:
        """Books what was seen in a tick, then closes the window that ends with it."""
        columns = (events.kind, events.click_id, events.order_id, events.time_hours, events.amount)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        for kind, click, order, hours, amount in rows:
            if kind == EventKind.PURCHASE:
                bought = min(int(hours // self._tick_hours), self._by_tick.size - 1)
                self._bought[click, order] = bought
                self._by_tick[bought] += amount
            elif kind == EventKind.REFUND:
                self._by_tick[self._bought[click, order]] -= amount
        if tick >= self._refund_ticks:
            self.matured += float(self._by_tick[tick - self._refund_ticks])
