"""Saved predictors go on as if not interrupted."""

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
    ends = (2, 4, SPLIT.num_segments) if name == "bdl" else (1, 2, 4)
    expected = play(whole, range(ends[-1]))
    broken, found = fitted(name, official_quirks=quirks), []
    for part in (range(ends[0]), range(*ends[:2]), range(*ends[1:])):
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


# Too few rows are held back until the next window, which has enough.
FEW = ((10, None, None), *((30_000 + 10 * i, 100, None) for i in range(8)))


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"pre_trained", "bdl"}))
@BOTH
def test_held_rows_are_saved(name, quirks, tmp_path):
    plays = LogStream(sparse_log(*FEW, (40_000, None, None)), SPLIT)
    whole, broken = (fitted(name, follow=False, official_quirks=quirks) for _ in range(2))
    expected = play(whole, [0, 1], plays)
    assert whole.trained_rows > 0
    assert not whole._held
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
