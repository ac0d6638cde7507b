"""Saved predictors go on as if not interrupted; a file that is none of theirs is named."""

import json

import numpy as np
import pytest
import torch
from small_predictors import (
    NAMES,
    SPLIT,
    differing,
    fitted,
    means,
    new_predictor,
    small_log,
    some_ids,
    sparse_log,
    state,
    stream,
)

from predictors import load_predictor
from predictors.stream import LogStream

BOTH = pytest.mark.parametrize("quirks", [False, True], ids=["papers", "published"])


def play(predictor, windows, plays=None):
    """Trains on windows; estimates after each."""
    plays, found = plays or stream(), []
    for k in windows:
        predictor.partial_fit(plays.window(k, privileged=predictor.privileged))
        found.append(means(predictor, some_ids()))
    return found


# --- going on ----------------------------------------------------------------------------------
# BDL trains in window 4: the interruption is in the day, or at its end.
@pytest.mark.parametrize("name", NAMES)
@BOTH
def test_a_saved_predictor_goes_on_as_if_not_interrupted(name, quirks, tmp_path):
    whole = fitted(name, official_quirks=quirks)
    expected = play(whole, range(SPLIT.num_segments))
    broken, found = fitted(name, official_quirks=quirks), []
    for part in (range(2), range(2, 4), range(4, SPLIT.num_segments)):
        if found:
            broken.save(tmp_path / "kept.npz")
            torch.manual_seed(5)  # the global generator plays no part
            broken = load_predictor(tmp_path / "kept.npz")
        found += play(broken, part)
    np.testing.assert_array_equal(found, expected)
    assert broken.losses == whole.losses
    assert broken.trained_rows == whole.trained_rows
    assert differing(state(broken, tmp_path), state(whole, tmp_path)) == set()


def test_a_loaded_predictor_has_what_was_saved(tmp_path):
    saved = fitted("tesla", ranking="rn", learning_rate=0.03)
    play(saved, range(2))
    saved.save(tmp_path / "kept.npz")
    loaded = load_predictor(str(tmp_path / "kept.npz"))
    assert type(loaded) is type(saved)
    assert (loaded.config, loaded.seed) == (saved.config, saved.seed)
    assert loaded.fields.cardinalities == small_log().cardinalities
    assert (loaded.losses, loaded.trained_rows) == (saved.losses, saved.trained_rows)
    np.testing.assert_array_equal(means(loaded, some_ids()), means(saved, some_ids()))
    before = means(saved, some_ids())
    play(loaded, [2])  # shares nothing with the one that was saved
    np.testing.assert_array_equal(means(saved, some_ids()), before)


def test_a_predictor_saved_before_fit_can_be_fitted(tmp_path):
    new_predictor("tesla").save(tmp_path / "new.npz")
    loaded = load_predictor(tmp_path / "new.npz")
    with pytest.raises(RuntimeError, match="tesla: call fit"):
        loaded.predict(some_ids())
    loaded.fit(stream().history(), SPLIT, follow=True)
    np.testing.assert_array_equal(play(loaded, [0]), play(fitted("tesla"), [0]))


@pytest.mark.parametrize("name", NAMES)
def test_files_hold_plain_arrays_and_say_whose_they_are(name, tmp_path):
    predictor = fitted(name)
    play(predictor, [0])
    arrays = state(predictor, tmp_path)  # reads without pickle
    assert all(array.dtype != object for array in arrays.values())
    about = json.loads(arrays["about"].tobytes())
    assert about["name"] == name
    assert about["fitted"]
    assert about["cardinalities"] == list(small_log().cardinalities)


# A lone row is held back until the next window.
LONE = ((10, None, None), (30_000, 100, None), (30_010, None, None))


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"pre_trained", "bdl"}))
@BOTH
def test_held_rows_are_saved(name, quirks, tmp_path):
    plays = LogStream(sparse_log(*LONE, (40_000, None, None)), SPLIT)
    whole, broken = (fitted(name, follow=False, official_quirks=quirks) for _ in range(2))
    expected = play(whole, [0, 1], plays)
    play(broken, [0], plays)
    assert broken._held
    assert broken.trained_rows == 0
    arrays = state(broken, tmp_path)
    assert any(key.startswith("held_") for key in arrays)
    loaded = load_predictor(tmp_path / "state.npz")
    np.testing.assert_array_equal(play(loaded, [1], plays)[0], expected[1])
    assert loaded.losses == whole.losses
    assert differing(state(loaded, tmp_path), state(whole, tmp_path)) == set()


# --- writing -----------------------------------------------------------------------------------
def test_an_interrupted_save_leaves_the_old_file(tmp_path, monkeypatch):
    file, predictor = tmp_path / "kept.npz", fitted("es_dfm")
    predictor.save(file)
    before, old = means(predictor, some_ids()), file.read_bytes()
    play(predictor, [0])

    def interrupted(out, **arrays):
        out.write(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", interrupted)
        with pytest.raises(KeyboardInterrupt):
            predictor.save(file)
        with pytest.raises(KeyboardInterrupt):
            predictor.save(tmp_path / "other.npz")
    assert list(tmp_path.iterdir()) == [file]  # no rest, either
    assert file.read_bytes() == old
    np.testing.assert_array_equal(means(load_predictor(file), some_ids()), before)
    predictor.save(file)
    np.testing.assert_array_equal(
        means(load_predictor(file), some_ids()), means(predictor, some_ids())
    )


# --- other files -------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """Arrays of a saved predictor."""
    return state(fitted("tesla"), tmp_path_factory.mktemp("kept"))


def without(arrays, prefix):
    return {name: array for name, array in arrays.items() if not name.startswith(prefix)}


def told(arrays, **changes):
    """With other statements about the predictor; None leaves one out."""
    about = json.loads(arrays["about"].tobytes()) | changes
    about = {name: value for name, value in about.items() if value is not None}
    return arrays | {"about": np.frombuffer(json.dumps(about).encode(), np.uint8)}


FOREIGN_ARRAYS = {
    "nothing about": lambda arrays: {"a": np.arange(3)},
    "unknown name": lambda arrays: told(arrays, name="nope"),
    "no NetCVR predictor": lambda arrays: told(arrays, name="oracle"),
    "other method": lambda arrays: told(arrays, name="es_dfm", config={}),
    "other cardinalities": lambda arrays: told(arrays, cardinalities=[3] * 22),
    "fitted, it says": lambda arrays: without(arrays, "nets/"),
    "not fitted, it says": lambda arrays: told(arrays, fitted=False),
    "no weight": lambda arrays: without(arrays, "nets/main.shared"),
    "no frozen network": lambda arrays: without(arrays, "frozen/"),
    "no clicks": lambda arrays: without(arrays, "open/"),
    "no times": lambda arrays: without(arrays, "open/times"),
    "no generator": lambda arrays: without(arrays, "draws/"),
    "no curve": lambda arrays: without(arrays, "curve/"),
    "half a moment": lambda arrays: arrays | {"adam_main/0.exp_avg": np.zeros(3)},
}


@pytest.mark.parametrize("case", FOREIGN_ARRAYS)
def test_files_of_other_content_are_named(case, kept, tmp_path):
    file = tmp_path / "foreign.npz"
    np.savez(file, **FOREIGN_ARRAYS[case](kept))
    with pytest.raises(ValueError, match=r"foreign\.npz: "):
        load_predictor(file)


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.npz"):
        load_predictor(tmp_path / "nowhere.npz")
