"""Traffic shares of the scenes, and how far what users want differs between them."""

from functools import cache

import numpy as np
import pytest

from adsim.config import EntitiesConfig, WorldConfig
from adsim.structure import LATENT_DIM, Structure, scene_shares

SMALL = {
    "num_users": 400,
    "num_contexts": 256,
    "num_scenes": 8,
    "user_cardinalities": (64, 32, 16, 8),
    "context_cardinalities": (16, 8),
}

MIXINGS = (0.0, 0.5, 1.0)


def make(seed=0, effects=None, **entities):
    return Structure(WorldConfig(entities=SMALL | entities, effects=effects or {}), seed)


def test_scene_shares_by_hand():
    # Two cold scenes take .1 each; 1, 1/2 and 1/3 = (6 + 3 + 2) / 6 share the remaining .8.
    entities = EntitiesConfig(num_scenes=5, scene_exponent=1.0, cold_scenes=2, cold_share=0.1)
    expected = [0.8 * 6 / 11, 0.8 * 3 / 11, 0.8 * 2 / 11, 0.1, 0.1]
    np.testing.assert_allclose(scene_shares(entities), expected, rtol=1e-15)
    # One usual scene has what two cold ones leave.
    entities = EntitiesConfig(num_scenes=3, cold_scenes=2, cold_share=0.0015)
    np.testing.assert_allclose(scene_shares(entities), [0.997, 0.0015, 0.0015], rtol=1e-15)


def test_contexts_have_the_shares_of_their_scenes():
    structure = make(cold_scenes=3, cold_share=0.0015)
    share = np.bincount(structure.scene_of, structure.context_weights)
    np.testing.assert_allclose(share, scene_shares(structure.config.entities), rtol=1e-12)
    assert share[4] > 10 * share[5]  # the smallest usual one, the first cold one


def test_cold_scenes_change_nothing_but_the_traffic():
    usual, cold = make(), make(cold_scenes=3)
    for name in ("user_ids", "item_ids", "context_ids", "user_latent", "weight", "list_price"):
        np.testing.assert_array_equal(getattr(usual, name), getattr(cold, name))
    assert (usual.context_weights != cold.context_weights).any()


@cache
def interactions(mixing):
    """(8, users x items, scenes): of the click and conversion logits in 4 structures."""
    parts = []
    for seed in range(4):
        structure = make(seed, {"scene_heterogeneity": mixing})
        weight = structure.weight.astype(np.float64)
        weight = weight.reshape(*weight.shape[:2], 2, LATENT_DIM)
        logits = np.einsum("ud,ishd->huis", structure.user_latent, weight)
        parts.append(logits.reshape(2, -1, weight.shape[1]))
    return np.concatenate(parts)


def mean_correlation(mixing):
    """Mean correlation of the interactions of the same users and items in two scenes."""
    pairs = np.triu_indices(8, 1)
    return np.mean([np.corrcoef(logits.T)[pairs].mean() for logits in interactions(mixing)])


def test_scenes_go_from_alike_to_unrelated():
    # gain = sqrt(1 - q^2) + q N(0, 1): E[gain gain'] / E[gain^2] = 1 - q^2 of two scenes. With 8
    # latents the mean of the ratio lies a little above the ratio of the means, except at the ends.
    alike, half, unrelated = map(mean_correlation, MIXINGS)
    assert alike == pytest.approx(1.0, abs=1e-6)
    assert alike > half > unrelated
    assert half == pytest.approx(0.75, abs=0.08)
    # 8 means over 28 pairs of 8 scenes, each with a standard deviation of about .08.
    assert unrelated == pytest.approx(0.0, abs=0.08)


@pytest.mark.parametrize("mixing", MIXINGS)
def test_heterogeneity_keeps_the_size_of_the_interaction(mixing):
    # Relative to effects.click and effects.conversion. In a single structure the standard deviation
    # is off by a fifth, its square by two: 8 squares have a standard error of .14.
    squares = (interactions(mixing) ** 2).mean(axis=(1, 2)).reshape(4, 2) / (0.16, 0.25)
    assert squares.mean() == pytest.approx(1.0, abs=0.35)
