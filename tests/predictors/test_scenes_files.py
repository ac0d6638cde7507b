"""Saved predictors for several scenes go on as if not interrupted."""

import json

import numpy as np
import pytest
import torch
from small_predictors import differing, state
from small_scenes import (
    NAMES,
    SPLIT,
    TARGETS,
    clicks,
    fitted,
    means,
    new_predictor,
    played,
    shown,
    stream,
)

from predictors import load_predictor

ALL = pytest.mark.parametrize("name", NAMES)
BOTH = pytest.mark.parametrize("target", TARGETS)
INFONCE = {"information": {"estimator": "infonce", "weight": 0.5, "warm_up_steps": 30}}
CASES = [(name, {}) for name in NAMES] + [("mi_dpg", INFONCE)]


@pytest.mark.parametrize(("name", "settings"), CASES)
@BOTH
def test_a_saved_predictor_goes_on_as_if_not_interrupted(name, settings, target, tmp_path):
    whole = fitted(name, target, **settings)
    expected = played(whole, range(4))
    broken, found = fitted(name, target, **settings), []
    for part in (range(1), range(1, 2), range(2, 4)):
        if found:
            broken.save(tmp_path / "kept.npz")
            torch.manual_seed(5)  # the global generator plays no part
            broken = load_predictor(tmp_path / "kept.npz")
        found += played(broken, part)
    np.testing.assert_array_equal(found, expected)
    assert broken.losses == whole.losses
    assert broken.trained_rows == whole.trained_rows > 0
    assert differing(state(broken, tmp_path), state(whole, tmp_path)) == set()
    if name == "mi_dpg":
        assert broken.bounds == whole.bounds
        assert len(broken.bounds) == len(whole.losses)
        assert int(broken.main.steps) == int(whole.main.steps)


@ALL
@BOTH
def test_files_hold_plain_arrays_and_say_whose_they_are(name, target, tmp_path):
    predictor = fitted(name, target)
    played(predictor, [0])
    arrays = state(predictor, tmp_path)  # reads without pickle
    assert all(array.dtype != object for array in arrays.values())
    about = json.loads(arrays["about"].tobytes())
    assert about["name"] == name
    assert about["config"]["target"] == target
    loaded = load_predictor(tmp_path / "state.npz")
    assert loaded.targets == predictor.targets
    assert (loaded.config, loaded.seed) == (predictor.config, predictor.seed)
    found = means(loaded, clicks().features)
    np.testing.assert_array_equal(found, means(predictor, clicks().features))


@BOTH
def test_held_rows_are_saved(target, tmp_path):
    # Less than a quarter of a batch of 800 waits for the next window.
    whole, broken = (fitted("mi_dpg", target, batch_size=800) for _ in range(2))
    counts, expected = [], []
    for k in range(SPLIT.num_segments):
        expected += played(whole, [k])
        counts.append(whole.trained_rows)
    assert counts[0] == counts[1] == 0 < counts[-1]
    played(broken, [0, 1])
    assert broken._held
    broken.save(tmp_path / "kept.npz")
    loaded = load_predictor(tmp_path / "kept.npz")
    found = played(loaded, range(2, SPLIT.num_segments))
    np.testing.assert_array_equal(found, expected[2:])
    assert loaded.trained_rows == counts[-1]


@BOTH
def test_a_predictor_saved_before_fit_can_be_fitted(target, tmp_path):
    new_predictor("mi_dpg", target).save(tmp_path / "new.npz")
    loaded = load_predictor(tmp_path / "new.npz")
    loaded.fit(stream(target).history(), SPLIT, follow=True)
    np.testing.assert_array_equal(played(loaded, [0]), played(fitted("mi_dpg", target), [0]))


def test_damaged_files_are_named(tmp_path):
    predictor = fitted("mi_dpg")
    played(predictor, [0])
    arrays = state(predictor, tmp_path)
    for part in ("nets/main.net.scene", "nets/main.bound", "nets/main.steps", "information/"):
        kept = {key: array for key, array in arrays.items() if not key.startswith(part)}
        assert len(kept) < len(arrays)
        np.savez(tmp_path / "damaged.npz", **kept)
        with pytest.raises(ValueError, match=r"damaged\.npz: not a saved predictor"):
            load_predictor(tmp_path / "damaged.npz")


def test_impressions_that_wait_are_part_of_the_state():
    predictor = fitted("mi_dpg", "ctr")
    store = predictor.open
    store.update(stream("ctr").window(0))
    copy = type(store)(4)
    copy.set_state(store.get_state())
    for one, two in zip(store.due(), copy.due(), strict=True):
        np.testing.assert_array_equal(one, two)
    assert (
        store.due()[0].size
        == (shown().time <= SPLIT.last_second(0)).sum() - (shown().time < SPLIT.start_second).sum()
    )
    store.close()
    assert store.due()[0].size == 0
    assert copy.due()[0].size > 0
