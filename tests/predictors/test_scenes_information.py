"""MI-DPG's mutual-information term in a predictor: reported, weighted, saved; a single scene."""

import math

import numpy as np
import pytest
import torch
from small_scenes import (
    CARDINALITIES,
    NAMES,
    SCENE,
    SPLIT,
    S,
    clicks,
    fitted,
    means,
    new_predictor,
    played,
    shown,
)

from predictors.impression_stream import ImpressionStream
from predictors.scene_pretraining import new_model
from predictors.stream import LogStream


def test_bound_is_reported_and_below_its_limit():
    predictor = fitted("mi_dpg")
    assert predictor.bounds == []
    played(predictor, range(SPLIT.num_segments))
    assert predictor.information_limit == pytest.approx(math.log(S))
    assert len(predictor.bounds) == len(predictor.losses) > 10
    assert max(predictor.bounds) <= math.log(S)
    assert np.isfinite(predictor.bounds).all()
    without = fitted("mi_dpg", information={"weight": 0})
    played(without, [0])
    assert without.bounds == []
    assert without.losses
    assert without.main.bound is None
    assert without.num_parameters == predictor.num_parameters  # the bound is for training only


def test_scenes_that_are_alike_are_parted_by_the_term_only():
    random = np.random.default_rng(5).random(shown().time.size) < 0.3
    plays, found = ImpressionStream(shown()._replace(clicked=random), SPLIT), []
    for weight in (0.0, 0.05):
        information = {"weight": weight, "warm_up_steps": 0}
        predictor = new_predictor("mi_dpg", "ctr", information=information)
        predictor.fit(plays.history(), SPLIT)
        played(predictor, range(SPLIT.num_segments), plays)
        found.append(predictor)
    without, parted = found
    assert parted.main.net.spread() > 1.5 * without.main.net.spread()
    assert parted.bounds[-1] > 0.9 * math.log(S)
    classifier = new_model(parted.fields, parted.config, 0, "mi_dpg").bound.classifier
    assert not torch.equal(parted.main.bound.classifier.weight, classifier.weight)


def test_steps_of_the_warm_up_are_counted_through_pretraining_and_stream():
    # 2 days of 300 clicks are 19 batches of 32 rows.
    predictor = fitted("mi_dpg")
    before = clicks().click_time < SPLIT.pretrain_days * 86_400
    assert int(predictor.main.steps) == round(before.sum() / 32)
    played(predictor, [0, 1])
    assert int(predictor.main.steps) == round(before.sum() / 32) + len(predictor.losses)


def test_term_is_weighted_and_subtracted():
    predictor = fitted("mi_dpg", information={"weight": 0.5, "warm_up_steps": 10_000})
    model, optimiser = predictor.main, predictor.optimisers["main"]
    ids = predictor.fields.encode(clicks().features[:32])
    label, draws = torch.ones(32), torch.Generator().manual_seed(3)
    model.steps.fill_(2_500)  # a quarter of the warm-up: weight .125
    entropy = torch.nn.functional.softplus(-model(ids)).mean()
    information = model.information(draws)
    expected = torch.autograd.grad(entropy - 0.125 * information, model.net.layers[0].head.weight)
    grads = []
    optimiser.register_step_pre_hook(
        lambda *_: grads.append(model.net.layers[0].head.weight.grad.clone())
    )
    found = model.learn(ids, label, optimiser, torch.Generator().manual_seed(3))
    assert found == pytest.approx((entropy.item(), information.item()), rel=1e-5)
    torch.testing.assert_close(grads[0], expected[0], rtol=1e-4, atol=1e-7)


def test_departure_of_the_weightings_is_monitored():
    predictor = fitted("mi_dpg")
    found = predictor.departure()
    assert found.shape == (3, S)  # layers, scenes
    weightings = predictor.main.net.weightings()
    expected = [[(m - 1).abs().mean().item() for m in layer[:S]] for layer in weightings]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_scenes_never_seen_are_left_out_of_the_bound():
    model = fitted("mi_dpg").main
    with torch.no_grad():
        model.net.trained.copy_(torch.tensor([1, 0, 0]))
        found = model.information(torch.Generator())
    assert found.item() == pytest.approx(0, abs=1e-6)  # log 1: nothing to tell apart


def test_scenes_of_few_rows_are_in_the_bound():
    model = fitted("mi_dpg").main
    with torch.no_grad():
        expected = model.information(torch.Generator().manual_seed(0))
        model.net.trained.copy_(torch.tensor([500, 1, 99]))
        found = model.information(torch.Generator().manual_seed(0))
    assert found == expected


@pytest.mark.parametrize("name", NAMES)
def test_one_scene_is_enough(name):
    cardinalities = (*CARDINALITIES[:SCENE], 1, *CARDINALITIES[SCENE + 1 :])
    log = clicks()
    features = np.where(np.arange(4) == SCENE, 0, log.features).astype(np.int32)
    one = LogStream(log._replace(features=features, cardinalities=cardinalities), SPLIT)
    predictor = type(new_predictor(name))(cardinalities, new_predictor(name).config)
    predictor.fit(one.history(), SPLIT, follow=True)
    for k in range(2):
        predictor.partial_fit(one.window(k))
    assert predictor.losses
    assert np.isfinite(means(predictor, features[:50])).all()
    if name == "mi_dpg":
        assert predictor.information_limit == 0
        np.testing.assert_allclose(predictor.bounds, 0, atol=1e-6)
        net = predictor.main.net
        ids, _ = predictor.column.split(predictor.fields.encode(features[:50]))
        logit = net.folded(0)(net.table[ids].flatten(1)).squeeze(1)  # a plain network
        expected = torch.sigmoid(logit).detach().numpy()
        np.testing.assert_allclose(means(predictor, features[:50]), expected, rtol=1e-5)
