"""The networks of the GMV predictors before a stream: rows, labels, losses and rates."""

import math

import numpy as np
import pytest
import torch
from purchase_logs import DAY, TIMELINE, make_log
from small_gmv import SIZES, SPLIT, small_log, stream, table_log

from predictors import GmvConfig, GmvPretraining, gmv_baselines, gmv_pretraining
from predictors.gmv import GmvRows
from predictors.gmv_pretraining import new_amounts
from predictors.purchase_rows import final_gmv, num_purchases
from predictors.purchase_stream import READER_SPLIT

SETTINGS = SIZES | {"pretrain_learning_rate": 0.03}


def before():
    return GmvPretraining(stream().history(), SPLIT)


def steps(monkeypatch, *, learn=True):
    """(loss, learning rate) of every training step to come."""
    seen, descend = [], gmv_pretraining.descend

    def spy(optimiser, loss):
        seen.append((loss.item(), optimiser.param_groups[0]["lr"]))
        if learn:
            descend(optimiser, loss)

    monkeypatch.setattr(gmv_pretraining, "descend", spy)
    return seen


def test_every_click_trains_the_tower_of_its_kind():
    # 50 if there is one purchase, 300 and 100 if there are two.
    rng = np.random.default_rng(0)
    time, several = np.sort(rng.integers(0, 3 * DAY, 3_000)), rng.random(3_000) < 0.5
    amount = np.where(several[:, None], (300.0, 100.0), (50.0, math.nan))
    log = table_log(time, np.zeros((3_000, 1)), (1,), np.zeros((3_000, 2)), amount)
    config = GmvConfig(**SETTINGS)
    ids = torch.zeros(1, 1, dtype=torch.int64)
    nets = [GmvPretraining(log, SPLIT).amounts(config, towers) for towers in (1, 2)]
    with torch.no_grad():
        single, dual = (torch.expm1(net(ids))[0] for net in nets)
    assert dual.tolist() == pytest.approx([50, 400], rel=0.05)
    assert 45 < single.item() < 420


@pytest.mark.parametrize("quirks", [False, True], ids=["paper", "published"])
def test_losses_of_two_towers_by_hand(monkeypatch, quirks):
    seen = steps(monkeypatch, learn=False)
    config = GmvConfig(**SETTINGS | {"batch_size": 5_000, "official_quirks": quirks})
    pretraining = before()
    pretraining.amounts(config, 2)
    log = stream().history()
    first = log.click_time < 3 * DAY
    label = torch.log1p(torch.from_numpy(final_gmv(log)[first])).float()
    kind = torch.from_numpy(num_purchases(log)[first] > 1).long()
    net = new_amounts(pretraining.fields, config, 0, 2)
    net.start_at(float(label.median()))
    with torch.no_grad():
        found = net(pretraining.fields.encode(log.features[first]))
    error = (found.gather(1, kind[:, None]).squeeze(1) - label).abs()
    means = [error[kind == k].mean().item() for k in (0, 1)]
    expected = sum(means) if quirks else error.mean().item()
    assert [loss for loss, _ in seen] == pytest.approx([expected], rel=1e-5)


@pytest.mark.parametrize("quirks", [False, True], ids=["paper", "published"])
def test_loss_of_the_dual_oracle(quirks):
    predictor = gmv_baselines.OracleDual((1,), GmvConfig(official_quirks=quirks))
    # Errors 1 and 2 of single purchases, 6 of a repurchase.
    target, kind = torch.tensor([3.0, 4.0, 1.0]), torch.tensor([0.0, 0.0, 1.0])
    batch = GmvRows(torch.zeros(3, 1), target, kind, torch.zeros(3), torch.zeros(3))
    loss = predictor.loss(torch.tensor([4.0, 2.0, 7.0]), batch)
    assert loss.item() == pytest.approx(1.5 + 6 if quirks else 3)


def test_epochs_are_those_of_the_amounts(monkeypatch):
    counts = {}
    for epochs in (1, 3):
        config = GmvConfig(**SETTINGS | {"pretrain_epochs": epochs})
        for name in ("amounts", "router", "calibrator"):
            with monkeypatch.context() as patch:
                seen = steps(patch)
                train = getattr(before(), name)
                train(config, 2) if name == "amounts" else train(config)
            counts[name, epochs] = len(seen)
    assert counts["amounts", 3] == 3 * counts["amounts", 1] > 60
    assert counts["router", 3] == counts["router", 1] > 0
    assert counts["calibrator", 3] == counts["calibrator", 1] > 0


@pytest.mark.parametrize("quirks", [False, True], ids=["paper", "published"])
def test_rates_of_networks_that_will_not_learn_again_fall(monkeypatch, quirks):
    rates = {"calibrator_learning_rate": 0.02, "official_quirks": quirks}
    config = GmvConfig(**SETTINGS | rates)
    for name, first in (("router", 0.03), ("calibrator", 0.02)):
        with monkeypatch.context() as patch:
            seen = steps(patch)
            getattr(before(), name)(config)
        found = np.array([rate for _, rate in seen])
        left = np.ones(len(found)) if quirks else 1 - np.arange(len(found)) / len(found)
        np.testing.assert_allclose(found, first * left, rtol=1e-6)
    seen = steps(monkeypatch)
    before().amounts(config, 1)
    assert {rate for _, rate in seen} == {0.03}


def test_the_calibrator_s_rate_is_its_own():
    pretraining = before()
    plain, other = (
        GmvConfig(**SETTINGS | {"calibrator_learning_rate": rate}) for rate in (1e-2, 1e-3)
    )
    assert pretraining.calibrator(plain) is not pretraining.calibrator(other)
    assert pretraining.router(plain) is pretraining.router(other)
    assert pretraining.amounts(plain, 2) is pretraining.amounts(other, 2)


def test_networks_are_shared_by_settings_that_they_do_not_depend_on():
    pretraining = before()
    plain, rate, epochs = (
        GmvConfig(**SETTINGS | change)
        for change in ({}, {"pretrain_learning_rate": 0.02}, {"pretrain_epochs": 2})
    )
    assert pretraining.router(plain) is pretraining.router(epochs)
    assert pretraining.router(plain) is not pretraining.router(rate)
    assert pretraining.calibrator(plain) is pretraining.calibrator(epochs)
    assert pretraining.calibrator(plain) is pretraining.calibrator(rate)
    assert pretraining.amounts(plain, 1) is not pretraining.amounts(epochs, 1)
    assert pretraining.amounts(plain, 1) is not pretraining.amounts(rate, 1)


def test_calibration_rows_are_the_purchases_of_clicks_that_buy_again():
    early = (DAY, (10, 7.0))  # buys once: none
    click, *bought = TIMELINE
    log = make_log(early, (40 * DAY, *bought), (click, (1, 1.0), (2, 1.0)))  # the last comes later
    pretraining = GmvPretraining(log, READER_SPLIT)
    place, count, elapsed, delta = pretraining._calibration_rows(GmvConfig())
    assert place.tolist() == [1, 1, 1]
    assert count.tolist() == [1, 2, 3]
    assert elapsed.tolist() == pytest.approx([600 / 604_800, 129_600 / 604_800, 518_400 / 604_800])
    assert delta.tolist() == pytest.approx([math.log(161 / 81), math.log(161 / 131), 0])


def test_labels_of_the_router_are_several_purchases(monkeypatch):
    labels = []
    monkeypatch.setattr(
        gmv_pretraining, "bce", lambda logit, label, mask: labels.append(label) or logit.sum()
    )
    before().router(GmvConfig(**SETTINGS))
    first = small_log().click_time < 3 * DAY
    several = (num_purchases(small_log())[first] > 1).sum()
    assert torch.cat(labels).sum().item() == several
    assert len(torch.cat(labels)) == first.sum()
