"""TESLA and READER on MI-DPG's layers: settings, files, estimates; and on plain ones, as before."""

from functools import partial

import numpy as np
import pytest
import small_gmv
import small_predictors
import torch
from pydantic import ValidationError
from small_predictors import differing, impressions, state

from predictors import PREDICTORS, load_predictor
from predictors.gmv_pretraining import GmvConfig, GmvPretraining
from predictors.mi_dpg import InformationConfig, MiDpgConfig
from predictors.pretraining import NetCVRConfig, Pretraining
from predictors.scene_backbone import SceneLinear

CARDINALITIES, SCENE = (6, 5, 3, 4), 2


# --- settings ----------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["tesla", "reader"])
def test_wrong_settings_are_refused(name):
    cls = PREDICTORS[name]
    with pytest.raises(ValidationError, match="backbone must be 'plain' with official_quirks"):
        cls.config_class(backbone="mi_dpg", official_quirks=True)
    with pytest.raises(ValidationError, match="'plain' or 'mi_dpg'"):
        cls.config_class(backbone="star")
    config = cls.config_class(backbone="mi_dpg", scene_field=4)
    with pytest.raises(ValueError, match=r"scene_field must be in \[0, 4\)"):
        cls(CARDINALITIES, config)
    cls(CARDINALITIES, cls.config_class(scene_field=4))  # plain layers do not need it


@pytest.mark.parametrize("name", ["miss", "dfsn"])
def test_methods_with_towers_of_their_own_have_plain_layers_only(name):
    with pytest.raises(ValueError, match="backbone"):
        PREDICTORS[name](CARDINALITIES, NetCVRConfig(backbone="mi_dpg"))


def test_parameters_are_counted():
    settings = {"scene_field": SCENE, "embedding_dim": 2}
    netcvr = partial(PREDICTORS["tesla"], CARDINALITIES)
    make = PREDICTORS["tesla"].config_class
    # 18 + 4 rows of 4 fields with their unknown ids, 3 sets of 2 columns; towers 16-4-1 with
    # normalisations: 68 + 8 + 5 each.
    plain = netcvr(make(widths=(4,), **settings)).num_parameters
    assert plain == (3 * 22 * 2 + 2 * 81, 3 * 22 * 2, 6)
    # Without the scene 18 rows, towers 12-4-1: 52 + 5. Scenes: 3 x 8; auxiliary: 8-32. Layers:
    # factors (12 + 4) r and (4 + 1) r at r = 4, heads (32 + 1) r^2; biases of 3 scenes. For one
    # more scene: 8 and 2 biases.
    found = netcvr(make(widths=(4,), backbone="mi_dpg", **settings)).num_parameters
    towers = 2 * (57 + 4 * 21 + 2 * 33 * 16 + 3)
    assert found == (3 * 18 * 2 + towers + 24 + 288, 3 * 18 * 2, 10)
    predictor = small_gmv.new_predictor("reader", CARDINALITIES, **settings)
    weights = [predictor_net.parameters() for predictor_net in gmv_nets(predictor)]
    assert predictor.num_parameters.total == sum(w.numel() for each in weights for w in each)


def gmv_nets(predictor):
    untrained = predictor.untrained_class(predictor.fields, 0)
    return untrained.amounts(predictor.config, 2), untrained.router(predictor.config)


def test_networks_are_kept_apart_by_their_backbone(tmp_path):
    log = small_predictors.small_log()
    pretraining = Pretraining(log, small_predictors.SPLIT, cache=tmp_path)
    small = NetCVRConfig(**small_predictors.SIZES)
    more = [
        {"backbone": "mi_dpg"},
        {"backbone": "mi_dpg", "scene_field": 3},
        {"backbone": "mi_dpg", "weighting": MiDpgConfig(rank=2)},
        {"backbone": "mi_dpg", "information": InformationConfig(weight=0)},
        {},
    ]
    for settings in more:
        pretraining.main(small.model_copy(update=settings))
    assert len(list(tmp_path.glob("main_*.npz"))) == 5
    # Of plain layers no other setting matters: not to the network, nor to its name.
    pretraining.main(small.model_copy(update={"scene_field": 3}))
    pretraining.delays("pay_late", small)
    pretraining.delays("pay_late", small.model_copy(update=more[0]))
    names = {file.stem for file in tmp_path.glob("*.npz")}
    assert len(names) == 6
    assert names >= {"main_20bbeb18d097f4f4", "pay_late_9d50b70558c857b6"}
    again = Pretraining(log, small_predictors.SPLIT, cache=tmp_path)
    for settings in more:
        config = small.model_copy(update=settings)
        one, other = (each.main(config).state_dict() for each in (pretraining, again))
        assert all(one[key].equal(other[key]) for key in one)


def _weighted(net):
    return any(isinstance(layer, SceneLinear) for layer in net.modules())


def test_gmv_networks_are_kept_apart_by_their_backbone():
    config = GmvConfig(**small_gmv.SIZES)
    pretraining = GmvPretraining(small_gmv.stream().history(), small_gmv.SPLIT)
    modulated = config.model_copy(update={"backbone": "mi_dpg", "scene_field": 2})
    for each in (config, modulated):
        for net in (pretraining.amounts(each, 2), pretraining.router(each)):
            assert _weighted(net) == (each is modulated)
        assert not _weighted(pretraining.calibrator(each))
    assert sorted(name.rsplit("_", 1)[0] for name in pretraining._made) == [
        *["amounts_2"] * 2,
        "calibrator",
        *["router"] * 2,
    ]


# --- predictors --------------------------------------------------------------------------------
KINDS = {
    "tesla": (small_predictors, {"backbone": "mi_dpg"}),
    "reader": (small_gmv, {"backbone": "mi_dpg", "scene_field": 2}),
}
BOTH = pytest.mark.parametrize("name", sorted(KINDS))


def played(predictor, windows):
    """Trains on windows; all estimates after each."""
    support, _ = KINDS[predictor.name]
    plays, held, found = support.stream(), support.some_ids(), []
    for k in windows:
        predictor.partial_fit(plays.window(k))
        found.append([each.mean for each in predictor.predict(held).values()])
    return found


@BOTH
def test_a_saved_predictor_goes_on_as_if_not_interrupted(name, tmp_path):
    support, settings = KINDS[name]
    whole, broken = (support.fitted(name, **settings) for _ in range(2))
    expected = played(whole, range(4))
    found = played(broken, range(2))
    broken.save(tmp_path / "kept.npz")
    broken = load_predictor(tmp_path / "kept.npz")
    found += played(broken, range(2, 4))
    np.testing.assert_array_equal(found, expected)
    assert broken.losses == whole.losses
    assert len(whole.losses) > 0
    assert differing(state(broken, tmp_path), state(whole, tmp_path)) == set()
    assert whole.nets["main"].backbone.steps > len(whole.losses)  # and those before the stream


@BOTH
def test_estimates_are_those_of_the_scene_and_do_not_change_the_predictor(name, tmp_path):
    support, settings = KINDS[name]
    predictor = support.fitted(name, **settings)
    predictor.nets["main"].backbone.scenes.trained[:3] = torch.tensor([99, 100, 100])
    before = state(predictor, tmp_path)
    features = support.small_log().features[:60].copy()
    place = settings.get("scene_field", 14)
    found = {}
    for scene in (0, 1, 2, 1_000, -1):
        features[:, place] = scene
        estimates = predictor.predict(impressions(features))
        found[scene] = np.stack([each.mean for each in estimates.values()])
        assert np.isfinite(found[scene]).all()
    assert differing(state(predictor, tmp_path), before) == set()
    assert np.abs(found[1] - found[2]).max() > 1e-4
    np.testing.assert_array_equal(found[1_000], found[-1])
    if name == "tesla":  # READER's router has a memory of scenes of its own
        np.testing.assert_allclose(found[0], found[-1], rtol=1e-5)
    nothing = predictor.predict(impressions(features[:0]))
    assert all(each.mean.shape == (0,) for each in nothing.values())


def test_a_frozen_encoder_stays_what_it_is():
    predictor = small_gmv.fitted("reader", bottom="frozen", **KINDS["reader"][1])
    main, ids = predictor.main, predictor.fields.encode(small_gmv.small_log().features[:50])

    def hidden():
        with torch.no_grad():
            others, rows = main.backbone.split(ids)
            return main.encoders[0](others, rows)

    before, output = hidden(), main(ids)
    played(predictor, range(3))
    torch.testing.assert_close(hidden(), before, rtol=0, atol=0)
    assert not main(ids).allclose(output)


# Before there were other layers than plain ones.
GOLDEN = {
    "tesla": (
        [0.8926089, 0.8142442, 0.7169384],
        [
            [0.5116007, 0.4851403, 0.4937184],
            [0.3603345, 0.3695166, 0.3601075],
            [0.3272533, 0.3058729, 0.3159268],
        ],
    ),
    "reader": ([0.7966763, 0.8909166, 0.8346916], [[119.8209, 120.6074, 120.5158]]),
}


@BOTH
def test_plain_layers_are_what_they_were(name):
    support, _ = KINDS[name]
    predictor = support.fitted(name)
    *_, last = played(predictor, range(3))
    losses, means = GOLDEN[name]
    np.testing.assert_allclose(predictor.losses[:3], losses, rtol=2e-5)
    np.testing.assert_allclose(np.array(last)[:, :3], means, rtol=2e-5)
