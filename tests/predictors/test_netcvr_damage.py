"""Files that are damaged, or hold something else than a predictor, are named."""

import json

import numpy as np
import pytest
import torch
from small_predictors import (
    SIZES,
    SPLIT,
    differing,
    fitted,
    means,
    some_ids,
    sparse_log,
    state,
    stream,
)

from predictors import NetCVRConfig, Pretraining, load_predictor
from predictors.arrays import load_arrays
from predictors.stream import LogStream


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """Arrays of a saved predictor that has learned and holds rows back."""
    predictor = fitted("tesla")
    predictor.partial_fit(stream().window(0))
    few = LogStream(sparse_log((22_000, None, None), (50_000, None, None)), SPLIT)
    predictor.partial_fit(few.window(1))
    assert predictor.losses
    assert predictor._held
    return state(predictor, tmp_path_factory.mktemp("kept"))


# --- bytes -------------------------------------------------------------------------------------
def flipped(raw):
    middle = len(raw) // 3
    return raw[:middle] + b"\xff" * 64 + raw[middle + 64 :]


def npy(raw):
    """A single array, without the archive around it."""
    header = b"{'descr': '<i8', 'fortran_order': False, 'shape': (1,), }".ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00v\x00" + header + bytes(8)


DAMAGE = {
    "empty": lambda raw: b"",
    "text": lambda raw: b"hello world, not a file",
    "zeros": lambda raw: bytes(1_000),
    "one byte": lambda raw: raw[:1],
    "cut off": lambda raw: raw[: len(raw) // 2],
    "last byte missing": lambda raw: raw[:-1],
    "first byte missing": lambda raw: raw[1:],
    "flipped bytes": flipped,
    "npy": npy,
    "pickle": lambda raw: b"\x80\x04\x95\x05\x00\x00\x00\x00\x00\x00\x00K\x01.",
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_files_are_named(case, kept, tmp_path):
    file = tmp_path / "damaged.npz"
    np.savez(file, **kept)
    file.write_bytes(DAMAGE[case](file.read_bytes()))
    for load in (load_predictor, load_arrays):
        with pytest.raises(ValueError, match=r"damaged\.npz: damaged, or not an npz file"):
            load(file)


def test_a_damaged_array_is_never_read_as_another(tmp_path):
    file, array = tmp_path / "small.npz", np.arange(5)
    np.savez(file, a=array)
    raw = file.read_bytes()
    damaged = [raw[:length] for length in range(len(raw))]
    for place in range(len(raw)):
        for value in (0, 1, 8, 255, raw[place] ^ 64):
            damaged.append(raw[:place] + bytes([value]) + raw[place + 1 :])
    rejected = 0
    for each in damaged:
        file.write_bytes(each)
        try:
            found = load_arrays(file)
        except ValueError as error:
            rejected += str(error).startswith(f"{file}: damaged, or not an npz file")
        else:  # where the reader does not look
            assert [values.tolist() for values in found.values()] in ([], [array.tolist()])
            rejected += 1
    assert rejected == len(damaged)


def test_objects_are_not_read(tmp_path):
    np.savez(tmp_path / "objects.npz", about=np.array([{"name": "tesla"}]))
    with pytest.raises(ValueError, match=r"objects\.npz: "):
        load_predictor(tmp_path / "objects.npz")


def test_a_missing_file_is_told(tmp_path):
    for load in (load_predictor, load_arrays):
        with pytest.raises(FileNotFoundError, match=r"nowhere\.npz"):
            load(tmp_path / "nowhere.npz")


def test_a_damaged_file_of_the_cache_is_named(tmp_path):
    config, history = NetCVRConfig(**SIZES), stream().history()
    Pretraining(history, SPLIT, cache=tmp_path).main(config)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:1_000])
    with pytest.raises(ValueError, match=rf"{file.name}: damaged"):
        Pretraining(history, SPLIT, cache=tmp_path).main(config)


# --- content -----------------------------------------------------------------------------------
def without(arrays, prefix):
    return {name: array for name, array in arrays.items() if not name.startswith(prefix)}


def said(arrays, text):
    """With this text instead of the statements about the predictor."""
    return arrays | {"about": np.frombuffer(text, np.uint8)}


def told(arrays, **changes):
    """With other statements about the predictor; None leaves one out."""
    about = json.loads(arrays["about"].tobytes()) | changes
    about = {name: value for name, value in about.items() if value is not None}
    return said(arrays, json.dumps(about).encode())


FOREIGN = {
    "nothing about": lambda arrays: {"a": np.arange(3)},
    "bad JSON": lambda arrays: said(arrays, b"{nope"),
    "bad text": lambda arrays: said(arrays, b"\xff\xfe{"),
    "nothing": lambda arrays: said(arrays, b""),
    "a list": lambda arrays: said(arrays, b"[1]"),
    "a number": lambda arrays: said(arrays, b"7"),
    "no name": lambda arrays: told(arrays, name=None),
    "list as name": lambda arrays: told(arrays, name=["tesla"]),
    "unknown name": lambda arrays: told(arrays, name="nope"),
    "no NetCVR predictor": lambda arrays: told(arrays, name="oracle"),
    "other method": lambda arrays: told(arrays, name="es_dfm", config={}),
    "no config": lambda arrays: told(arrays, config=None),
    "bad config": lambda arrays: told(arrays, config={"widths": [-1]}),
    "other config": lambda arrays: told(arrays, config={"widths": [3]}),
    "no cardinalities": lambda arrays: told(arrays, cardinalities=None),
    "bad cardinalities": lambda arrays: told(arrays, cardinalities=[0]),
    "other cardinalities": lambda arrays: told(arrays, cardinalities=[3] * 22),
    "no seed": lambda arrays: told(arrays, seed=None),
    "bad seed": lambda arrays: told(arrays, seed="one"),
    "no device": lambda arrays: told(arrays, device=None),
    "no trained rows": lambda arrays: told(arrays, trained_rows=None),
    "fitted, it says": lambda arrays: without(arrays, "nets/"),
    "not fitted, it says": lambda arrays: told(arrays, fitted=False),
    "no weight": lambda arrays: without(arrays, "nets/main.shared"),
    "weight of another shape": lambda arrays: arrays | {"nets/main.shared": np.zeros((2, 2))},
    "no frozen network": lambda arrays: without(arrays, "frozen/"),
    "no clicks": lambda arrays: without(arrays, "open/"),
    "no times": lambda arrays: without(arrays, "open/times"),
    "no moments of time": lambda arrays: arrays | {"open/moments": np.zeros(2, np.int64)},
    "times of another shape": lambda arrays: arrays | {"open/times": np.zeros(3)},
    "no held rows": lambda arrays: without(arrays, "held_"),
    "no moments of Adam": lambda arrays: without(arrays, "adam_"),
    "moment of another shape": lambda arrays: arrays | {"adam_main/0.exp_avg": np.zeros(3)},
    "no shapes": lambda arrays: without(arrays, "shapes"),
    "no generator": lambda arrays: without(arrays, "draws/"),
    "bad generator": lambda arrays: arrays | {"draws/generator": np.zeros(3, np.uint8)},
    "no curve": lambda arrays: without(arrays, "curve/"),
    "moment of no weight": lambda arrays: arrays | {"adam_main/x.exp_avg": np.zeros(3)},
    "half of the held rows": lambda arrays: without(arrays, "held_tesla/ids"),
    "too much of the held rows": lambda arrays: arrays | {"held_tesla/x": np.zeros(3, np.float32)},
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


# --- devices -----------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["tesla", "es_dfm", "fnw"])
def test_frozen_networks_of_a_loaded_predictor_are_moved_to_its_device(name, tmp_path, monkeypatch):
    fitted(name, official_quirks=True).save(tmp_path / "kept.npz")
    moved, plain = set(), torch.nn.Module.to

    def to(self, *arguments, **options):
        moved.update(map(id, self.modules()))
        return plain(self, *arguments, **options)

    monkeypatch.setattr(torch.nn.Module, "to", to)
    loaded = load_predictor(tmp_path / "kept.npz")
    assert loaded.frozen
    for net in (*loaded.nets.values(), *loaded.frozen.values()):
        assert id(net) in moved
    assert means(loaded, some_ids()).shape == (3, 200)
