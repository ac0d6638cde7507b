"""Everything fixed about a world: users, contexts, items, their hidden effects and drift.

A response (head) of the funnel has, on its logit or log scale,

    z = offset(tick) + user main + context main + item main
        + sum_d user_latent_d * weight(item, scene)_d            (click and conversion only)

where every main effect and latent is a sum over the entity's field values, so that all of it is
observable through the 22 ids. Partial sums per entity are tabulated once per drift step.
"""

from collections import OrderedDict
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
from scipy.special import expit, ndtri

from adsim.config import EntitiesConfig, HeadConfig, WorldConfig
from adsim.effects import (
    Alias,
    Float32Array,
    Int32Array,
    alias_table,
    draw_ids,
    intent_integral,
    refund_curve,
    solve_bias,
    stretch,
    sum_rows,
    zipf_weights,
)
from adsim.rng import Stream, generator, uniforms
from adsim.types import FloatArray

HEADS = ("click", "conversion", "refund", "amount", "repurchase")
LATENT_DIM = 8  # D, of the user x item x scene interaction
NOISE_DIM = 3  # rivals' errors share this many user and this many context components
_CALIBRATION_DRAWS = 20_000
_CALIBRATION_STEPS = 8
_NO_SPREAD = 1e-9  # a field with one value has no effect; its spread is rounding noise
CACHED_STEPS = 32  # drift steps whose tables are kept; about 2 MB each


class Tables(NamedTuple):
    """What a compiled loop reads to draw and value an impression, at one drift step."""

    user: Float32Array  # (U, 16) 5 heads, 8 latents, 3 rival-noise components
    context: Float32Array  # (X, 8) 5 heads, 3 rival-noise components
    item: Float32Array  # (I, 5) heads
    weight: Float32Array  # (I, scenes, 16) interaction weights: 8 click, 8 conversion
    scene: Int32Array  # (X,) scene of a context
    list_price: FloatArray  # (I,) currency
    user_alias: Alias
    context_alias: Alias
    item_alias: Alias  # over the positions of a catalogue


def scene_shares(entities: EntitiesConfig) -> FloatArray:
    """Shares (scenes,) of the traffic: a Zipf law over the usual scenes, then the cold ones."""
    cold = np.full(entities.cold_scenes, entities.cold_share)
    usual = zipf_weights(entities.num_scenes - cold.size, entities.scene_exponent)
    return np.concatenate([(1.0 - cold.sum()) * usual, cold])


class FieldEffects(NamedTuple):
    """Hidden effects of the field values of one kind of entity."""

    fixed: FloatArray  # (V, 5) main effects per value that never change
    drifting: FloatArray  # (V, 5) standard deviation of the drifting part
    rows: Int32Array  # (n, fields) index into V of each entity's values


class Structure:
    """Entity tables and hidden effects of a world; a pure function of (config, seed).

    Attributes:
        cardinalities: sizes of the 22 fields: 8 user, 6 item, 8 context (by default).
        user_ids, item_ids, context_ids: (n, fields) int32 categorical ids of the entities.
        bias: (5,) logit (log) offsets that give the configured mean rates.
    """

    def __init__(self, config: WorldConfig, seed: int, cached_steps: int = CACHED_STEPS) -> None:
        self.config, self.seed, self._cached_steps = config, seed, cached_steps
        entities = config.entities
        rng = generator(seed, Stream.STRUCTURE)
        self.num_items = entities.items_per_advertiser * self._num_advertisers()
        self._draw_entities(rng, entities)
        self._draw_effects(rng)
        self._draw_interactions(rng)
        purchase, spread = config.purchase, rng.standard_normal(self.num_items)
        self.list_price = purchase.list_price * np.exp(
            purchase.list_price_sd * stretch(spread, purchase.list_price_tail)
        )
        self._price_effect = purchase.price_dependence * spread  # on the repurchase logit
        self.rival_noise = rng.standard_normal((2 * NOISE_DIM, self._num_advertisers()))
        self.scene_price = config.market.landscape.scene_sd * rng.standard_normal(
            entities.num_scenes
        )
        self.rival_draws = rng.random((4, self._num_advertisers()))
        self._states: list[FloatArray] = []  # drift of all steps so far
        self._lock = Lock()
        self._cache: OrderedDict[int, Tables] = OrderedDict()
        self.scene_of = np.ascontiguousarray(self.context_ids[:, 0])
        self.bias = np.zeros(5)
        self.bias = self._calibrate()

    def _num_advertisers(self) -> int:
        market = self.config.market
        return market.population.n_advertisers if market.kind == "population" else 1

    def _draw_entities(self, rng: np.random.Generator, entities: EntitiesConfig) -> None:
        """Field ids and frequencies of users, items and contexts."""
        exponent, activity = entities.zipf_exponent, entities.activity_exponent
        num_scenes = entities.num_scenes
        scenes = rng.choice(num_scenes, entities.num_contexts).astype(np.int32)
        scenes[: min(num_scenes, scenes.size)] = np.arange(min(num_scenes, scenes.size))
        users = np.arange(entities.num_users, dtype=np.int32)
        items = np.arange(self.num_items, dtype=np.int32)
        self.user_ids = draw_ids(rng, users.size, users, entities.user_cardinalities, exponent)
        self.item_ids = draw_ids(rng, items.size, items, entities.item_cardinalities, exponent)
        self.context_ids = draw_ids(
            rng, scenes.size, scenes, entities.context_cardinalities, exponent
        )
        self.cardinalities = (
            *(users.size, *entities.user_cardinalities),
            *(items.size, *entities.item_cardinalities),
            *(num_scenes, *entities.context_cardinalities),
        )
        self.user_weights = zipf_weights(users.size, activity)
        self.item_weights = zipf_weights(entities.items_per_advertiser, activity)
        within = rng.permutation(zipf_weights(scenes.size, activity))
        totals = np.bincount(scenes, within, minlength=num_scenes)
        share = scene_shares(entities)
        self.context_weights = within * (share / np.maximum(totals, 1e-300))[scenes]
        self.context_weights /= self.context_weights.sum()
        self.user_alias = alias_table(self.user_weights)
        self.context_alias = alias_table(self.context_weights)
        self.item_alias = alias_table(self.item_weights)

    def _draw_effects(self, rng: np.random.Generator) -> None:
        """Main effects of all field values; variances add up to the heads' configured ones."""
        effects = self.config.effects
        context_share = 1.0 - effects.user_share - effects.item_share
        id_share = effects.id_share
        self.user_effects = self._field_effects(
            rng, self.user_ids, self.user_weights, effects.user_share, id_share
        )
        item_weights = np.tile(self.item_weights, self._num_advertisers())
        self.item_effects = self._field_effects(
            rng, self.item_ids, item_weights, effects.item_share, id_share
        )
        self.context_effects = self._field_effects(
            rng, self.context_ids, self.context_weights, context_share, None
        )

    def _field_effects(
        self,
        rng: np.random.Generator,
        ids: Int32Array,
        weights: FloatArray,
        share: float,
        id_share: float | None,
    ) -> FieldEffects:
        """Effects whose sum over an entity's fields has variance share * sd**2 over impressions.

        The leading column is an id with `id_share` of the variance, or (None) the scene, whose
        effect has the configured scene sd on top.
        """
        sizes = ids.max(axis=0) + 1
        rows = (ids + np.concatenate([[0], np.cumsum(sizes[:-1])])).astype(np.int32)
        heads = [getattr(self.config.effects, head) for head in HEADS]
        sd = np.array([head.sd for head in heads]) * np.sqrt(share)
        num_fields = ids.shape[1]
        rest = (1.0 - (id_share or 0.0)) / max(num_fields - 1, 1)
        field_share = np.full(num_fields, rest)
        field_share[0] = id_share or 0.0
        weights = weights / weights.sum()
        values = rng.standard_normal((rows.max() + 1, 5))
        for column in range(num_fields):  # unit variance, mean 0 over impressions, per field
            where = rows[:, column]
            mass = np.bincount(where, weights, minlength=values.shape[0])[:, None]
            present = np.unique(where)
            values[present] -= (mass * values)[present].sum(axis=0)
            spread = np.sqrt((mass * values**2)[present].sum(axis=0))
            values[present] /= np.where(spread > _NO_SPREAD, spread, np.inf)
        value_field = np.repeat(np.arange(num_fields), sizes)
        scaled = np.sqrt(field_share)[value_field][:, None] * sd
        drift = self._drift_shares()
        fixed = np.sqrt(1.0 - drift) * scaled * values
        if id_share is None:
            scene = value_field == 0
            fixed[scene] = (
                np.array([1.0, 1.0, 0.0, 0.0, 0.0]) * self.config.effects.scene_sd * values[scene]
            )
        return FieldEffects(fixed, np.sqrt(drift) * scaled, rows)

    def _drift_shares(self) -> FloatArray:
        """Share (5,) of the responses' main-effect variance that drifts."""
        shares = [getattr(self.config.effects, head).drift_share for head in HEADS]
        usual = self.config.drift.share
        return np.array([usual if share is None else share for share in shares])

    def _draw_interactions(self, rng: np.random.Generator) -> None:
        """User latents of unit variance, and item weights that scenes modulate."""
        effects, entities = self.config.effects, self.config.entities
        values = rng.standard_normal((self.user_effects.fixed.shape[0], LATENT_DIM))
        latent = values[self.user_effects.rows[:, 1:]].sum(axis=1)
        latent -= np.average(latent, axis=0, weights=self.user_weights)
        spread = np.sqrt(np.average(latent**2, axis=0, weights=self.user_weights))
        self.user_latent = latent / np.where(spread > _NO_SPREAD, spread, np.inf)
        self.user_noise = rng.standard_normal((entities.num_users, NOISE_DIM))
        self.context_noise = rng.standard_normal((entities.num_contexts, NOISE_DIM))
        categories = self.config.market.population.categories
        advertiser = np.repeat(np.arange(self._num_advertisers()), entities.items_per_advertiser)
        mixing = effects.scene_heterogeneity
        blocks: list[FloatArray] = []
        head: HeadConfig
        for head in (effects.click, effects.conversion):
            common = rng.standard_normal((categories, LATENT_DIM))[advertiser % categories]
            own = rng.standard_normal((self.num_items, LATENT_DIM))
            base = np.sqrt(0.7) * common + np.sqrt(0.3) * own  # category share: free choice
            gain = np.sqrt(1 - mixing**2) + mixing * rng.standard_normal(
                (entities.num_scenes, LATENT_DIM)
            )
            blocks.append(head.interaction_sd / np.sqrt(LATENT_DIM) * base[:, None] * gain[None])
        self.weight = np.concatenate(blocks, axis=2).astype(np.float32)

    def drift_step(self, hours: float) -> int:
        """Index of the drift step that covers a moment of the campaign."""
        return int(hours / self.config.drift.step_hours)

    def drift_state(self, step: int) -> FloatArray:
        """Standard normal Ornstein-Uhlenbeck values (V, 5) of all field values at a step.

        x_0 ~ N(0, 1), x_{k+1} = a x_k + sqrt(1 - a^2) e_k with a = exp(-step / time constant): the
        exact discretisation; e_k are counter-based in (structure seed, value, step).
        """
        config = self.config.drift
        a = np.exp(-config.step_hours / config.time_constant_hours)
        total = sum(effects.fixed.shape[0] for effects in self._all_effects())
        while len(self._states) <= step:
            noise = self._innovation(total, len(self._states))
            if self._states:
                noise = a * self._states[-1] + np.sqrt(1 - a * a) * noise
            self._states.append(noise)
        return self._states[step]

    def _innovation(self, total: int, step: int) -> FloatArray:
        ids = np.arange(total)
        draws = [uniforms(self.seed, Stream.DRIFT, ids, 2 * step + half) for half in (0, 1)]
        return ndtri(np.concatenate([draws[0], draws[1][:, :1]], axis=1))

    def _all_effects(self) -> tuple[FieldEffects, FieldEffects, FieldEffects]:
        return self.user_effects, self.item_effects, self.context_effects

    def main_effects(self, step: int) -> list[FloatArray]:
        """Partial sums (n, 5) of users, items and contexts at a drift step."""
        sums, start = [], 0
        state = self.drift_state(step) if self._drift_shares().any() else None
        for effects in self._all_effects():
            stop = start + effects.fixed.shape[0]
            values = effects.fixed
            if state is not None:
                values = values + effects.drifting * state[start:stop]
            sums.append(sum_rows(values, effects.rows))
            start = stop
        sums[1][:, 4] += self._price_effect
        return sums

    def tables(self, step: int) -> Tables:
        """What the compiled loops read at a drift step; the steps used last are kept."""
        with self._lock:
            if step not in self._cache:
                if len(self._cache) >= self._cached_steps:
                    self._cache.popitem(last=False)
                self._cache[step] = self._make_tables(step)
            self._cache.move_to_end(step)
            return self._cache[step]

    def __getstate__(self) -> dict[str, Any]:
        """Without the lock; tables are made anew."""
        return {**self.__dict__, "_lock": None, "_cache": OrderedDict()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = Lock()

    def _make_tables(self, step: int) -> Tables:
        user, item, context = self.main_effects(step)
        return Tables(
            np.ascontiguousarray(np.hstack([user, self.user_latent, self.user_noise]), np.float32),
            np.ascontiguousarray(np.hstack([context, self.context_noise]), np.float32),
            np.ascontiguousarray(item, np.float32),
            self.weight,
            self.scene_of,
            self.list_price,
            self.user_alias,
            self.context_alias,
            self.item_alias,
        )

    def _calibrate(self) -> FloatArray:
        """Offsets (5,) that give the configured mean rates over the controlled catalogue.

        Mean over the campaign: the draws are spread over its drift steps.
        """
        config, rng = self.config, generator(self.seed, Stream.STRUCTURE + 1000)
        n = _CALIBRATION_DRAWS
        user = rng.choice(self.user_weights.size, n, p=self.user_weights)
        context = rng.choice(self.context_weights.size, n, p=self.context_weights)
        item = rng.choice(self.item_weights.size, n, p=self.item_weights)
        last = self.drift_step(config.time.horizon_hours - config.time.tick_hours)
        steps = np.unique(np.linspace(0, last, _CALIBRATION_STEPS).astype(np.int64))
        z = np.empty((n, 5))
        for part, step in zip(np.array_split(np.arange(n), steps.size), steps, strict=True):
            sums = self.main_effects(int(step))
            z[part] = sums[0][user[part]] + sums[1][item[part]] + sums[2][context[part]]
        weight = self.weight[item, self.context_ids[context, 0]]
        latent = self.user_latent[user]
        z[:, 0] += (latent * weight[:, :LATENT_DIM]).sum(axis=1)
        z[:, 1] += (latent * weight[:, LATENT_DIM:]).sum(axis=1)
        effects, purchase = config.effects, config.purchase
        intent = rng.standard_normal(n)
        bias = np.zeros(5)
        bias[0] = solve_bias(z[:, 0], config.click.ctr)
        clicks = expit(z[:, 0] + bias[0])
        conversion = z[:, 1] + effects.unseen_intent_conversion * intent
        bias[1] = solve_bias(conversion, config.conversion.cvr, clicks)
        buys = clicks * expit(conversion + bias[1])
        again = z[:, 4] + effects.unseen_intent_repurchase * intent
        rate = purchase.repurchase_rate if purchase.max_purchases > 1 else 0.0
        bias[4] = solve_bias(again, rate, buys) if rate > 0 else -np.inf
        several = rng.random(n) < expit(again + bias[4])
        at_list_price = ~several & (rng.random(n) < purchase.exact_share)
        amount = np.where(at_list_price, 0.0, rng.standard_normal(n))
        refund = z[:, 2] + refund_curve(
            config, intent_integral(z[:, 1] + bias[1], effects.unseen_intent_conversion)
        )
        refund += effects.unseen_intent_refund * intent + config.refund.amount_dependence * amount
        bias[2] = (
            solve_bias(refund, config.refund.rate, buys) if config.refund.rate > 0 else -np.inf
        )
        return bias
