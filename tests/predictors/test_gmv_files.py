"""Saved GMV predictors go on as if not interrupted; damaged files are refused."""

import json

import numpy as np
import pytest
import torch
from small_gmv import (
    NAMES,
    SPLIT,
    attached,
    fitted,
    gmv,
    new_predictor,
    played,
    single_buys,
    small_log,
    some_ids,
    stream,
)
from small_predictors import differing, state

from predictors import load_predictor
from predictors.purchase_rows import final_gmv
from predictors.purchase_stream import PurchaseStream

ALL = pytest.mark.parametrize("name", NAMES)
BOTH = pytest.mark.parametrize("quirks", [False, True], ids=["paper", "published"])


# --- going on ----------------------------------------------------------------------------------
# Offline methods train in window 8: the interruption is in the day, or at its end.
@ALL
@BOTH
def test_a_saved_predictor_goes_on_as_if_not_interrupted(name, quirks, tmp_path):
    settings = {"official_quirks": quirks, "rate_decay": 0.8, "weight_decay": 0.01}
    whole, broken = fitted(name, **settings), fitted(name, **settings)
    ends = (5, 8, 10) if name.startswith("offline") else (1, 2, 4)
    expected, found = played(whole, range(ends[-1])), []
    for part in (range(ends[0]), range(*ends[:2]), range(*ends[1:])):
        if found:
            broken.save(tmp_path / "kept.npz")
            torch.manual_seed(5)  # the global generator plays no part
            broken = attached(load_predictor(tmp_path / "kept.npz"))
        found += played(broken, part)
    np.testing.assert_array_equal(found, expected)
    assert broken.losses == whole.losses
    assert broken.trained_rows == whole.trained_rows
    assert differing(state(broken, tmp_path), state(whole, tmp_path)) == set()


@pytest.mark.parametrize("bottom", ["shared", "independent", "frozen"])
def test_every_bottom_can_be_saved(bottom, tmp_path):
    whole = fitted("reader", bottom=bottom, head="absolute", calibrate=False)
    played(whole, [0])
    whole.save(tmp_path / "kept.npz")
    loaded = load_predictor(tmp_path / "kept.npz")
    np.testing.assert_array_equal(played(loaded, [1, 2]), played(whole, [1, 2]))
    assert differing(state(loaded, tmp_path), state(whole, tmp_path)) == set()


def test_a_loaded_predictor_has_what_was_saved(tmp_path):
    saved = fitted("reader", gra_weight=0.3, window_ends=False)
    played(saved, range(2))
    saved.save(tmp_path / "kept.npz")
    loaded = load_predictor(str(tmp_path / "kept.npz"))
    assert type(loaded) is type(saved)
    assert (loaded.config, loaded.seed, loaded.rule) == (saved.config, saved.seed, saved.rule)
    assert loaded.rule == "purchases"
    assert loaded.fields.cardinalities == small_log().cardinalities
    assert (loaded.losses, loaded.trained_rows) == (saved.losses, saved.trained_rows)
    before = gmv(saved, some_ids())
    np.testing.assert_array_equal(gmv(loaded, some_ids()), before)
    played(loaded, [2])  # shares nothing with the one that was saved
    np.testing.assert_array_equal(gmv(saved, some_ids()), before)


def test_what_clicks_have_bought_is_saved(tmp_path):
    # The sums of clicks whose window is open go into later labels.
    whole = fitted("reader")
    played(whole, range(3))
    whole.save(tmp_path / "kept.npz")
    loaded = load_predictor(tmp_path / "kept.npz")
    labels = []
    for predictor in (whole, loaded):
        predictor.open.update(stream().window(3))
        labels.append(predictor._new_rows("ends").target)
    assert torch.equal(*labels)
    log = small_log()
    ended = (log.click_time >= 3.375 * 86_400) & (log.click_time < 3.5 * 86_400)
    expected = np.log1p(final_gmv(log)[ended].astype(np.float32))
    np.testing.assert_allclose(labels[0], expected, rtol=1e-6)


def test_a_predictor_saved_before_fit_can_be_fitted(tmp_path):
    new_predictor("reader").save(tmp_path / "new.npz")
    loaded = load_predictor(tmp_path / "new.npz")
    with pytest.raises(RuntimeError, match="reader: call fit"):
        loaded.predict(some_ids())
    loaded.fit(stream().history(), SPLIT, follow=True)
    np.testing.assert_array_equal(played(loaded, [0]), played(fitted("reader"), [0]))


@ALL
def test_files_hold_plain_arrays_and_say_whose_they_are(name, tmp_path):
    predictor = fitted(name)
    played(predictor, [0])
    arrays = state(predictor, tmp_path)  # reads without pickle
    assert all(array.dtype != object for array in arrays.values())
    about = json.loads(arrays["about"].tobytes())
    assert about["name"] == name
    assert about["cardinalities"] == list(small_log().cardinalities)


@pytest.mark.parametrize("name", ["online_single", "online_dual", "oracle_dual", "reader"])
@BOTH
def test_held_rows_are_saved(name, quirks, tmp_path):
    # A quarter of a batch is 8 rows: 7 in segment 0, one more in segment 1.
    plays = PurchaseStream(
        single_buys(*range(10, 80, 10), 11_000), SPLIT, attribution_seconds=86_400
    )
    whole, broken = (
        fitted(name, follow=False, log=plays.log, official_quirks=quirks) for _ in range(2)
    )
    expected = played(whole, [0, 1], plays)
    assert (whole.trained_rows, whole._held) == (8, {})
    played(broken, [0], plays)
    assert broken.trained_rows == 0
    assert any(key.startswith("held_") for key in state(broken, tmp_path))
    loaded = attached(load_predictor(tmp_path / "state.npz"), plays.log)
    np.testing.assert_array_equal(played(loaded, [1], plays)[0], expected[1])
    assert loaded.losses == whole.losses
    assert differing(state(loaded, tmp_path), state(whole, tmp_path)) == set()


# --- damage ------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """Arrays of a saved predictor that has learned and holds rows back."""
    predictor = fitted("reader", rate_decay=0.9, batch_size=256)
    played(predictor, range(3))
    assert predictor.losses
    predictor._held["purchases_and_ends"] = predictor._new_rows("purchases_and_ends")
    return state(predictor, tmp_path_factory.mktemp("kept"))


DAMAGE = {
    "empty": lambda raw: b"",
    "text": lambda raw: b"hello world, not a file",
    "cut off": lambda raw: raw[: len(raw) // 2],
    "last byte missing": lambda raw: raw[:-1],
    "flipped bytes": lambda raw: raw[:5_000] + b"\xff" * 64 + raw[5_064:],
    "pickle": lambda raw: b"\x80\x04\x95\x05\x00\x00\x00\x00\x00\x00\x00K\x01.",
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_files_are_named(case, kept, tmp_path):
    file = tmp_path / "damaged.npz"
    np.savez(file, **kept)
    file.write_bytes(DAMAGE[case](file.read_bytes()))
    with pytest.raises(ValueError, match=r"damaged\.npz: damaged, or not an npz file"):
        load_predictor(file)


def without(arrays, prefix):
    return {name: array for name, array in arrays.items() if not name.startswith(prefix)}


def told(arrays, **changes):
    """With other statements about the predictor."""
    about = json.loads(arrays["about"].tobytes()) | changes
    return arrays | {"about": np.frombuffer(json.dumps(about).encode(), np.uint8)}


FOREIGN = {
    "unknown name": lambda arrays: told(arrays, name="nope"),
    "other method": lambda arrays: told(arrays, name="online_single", config={}),
    "method of NetCVR": lambda arrays: told(arrays, name="tesla", config={}),
    "bad config": lambda arrays: told(arrays, config={"unlearning_weight": 1.0}),
    "other config": lambda arrays: told(arrays, config={"tower_widths": [3]}),
    "other cardinalities": lambda arrays: told(arrays, cardinalities=[3] * 3),
    "not fitted, it says": lambda arrays: told(arrays, fitted=False),
    "no weights": lambda arrays: without(arrays, "nets/"),
    "no router": lambda arrays: without(arrays, "frozen/router"),
    "no calibrator": lambda arrays: without(arrays, "frozen/calibrator"),
    "no clicks": lambda arrays: without(arrays, "open/"),
    "no sums": lambda arrays: without(arrays, "open/sum_gmv"),
    "no purchases ahead": lambda arrays: without(arrays, "open/ahead_amount"),
    "sums of another shape": lambda arrays: arrays | {"open/sum_gmv": np.zeros(3)},
    "no passes": lambda arrays: without(arrays, "rate/"),
    "no held rows": lambda arrays: without(arrays, "held_"),
    "half of the held rows": lambda arrays: without(arrays, "held_purchases_and_ends/unlearn"),
    "no moments of Adam": lambda arrays: without(arrays, "adam_"),
    "no shapes": lambda arrays: without(arrays, "shapes"),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_files_of_other_content_are_named(case, kept, tmp_path):
    file = tmp_path / "foreign.npz"
    np.savez(file, **FOREIGN[case](kept))
    with pytest.raises(ValueError, match=r"foreign\.npz: not a saved predictor"):
        load_predictor(file)


def test_the_file_of_these_tests_is_good(kept, tmp_path):
    np.savez(tmp_path / "good.npz", **kept)
    loaded = load_predictor(tmp_path / "good.npz")
    assert differing(state(loaded, tmp_path), kept) == set()
