"""Settings for streams that bring few rows: weights per id, settling rates, FNC's start."""

import numpy as np
import pytest
import torch
from small_predictors import SIZES, SPLIT, small_log

from adsim.clicklog import MISSING
from predictors import NetCVRConfig, Pretraining
from predictors.gmv_nets import Amounts, Router
from predictors.nets import Fields, LinearTerms, Sizes, TwoTowers, probabilities
from predictors.scene_backbone import BackboneConfig, with_backbone
from predictors.stream import LogStream
from predictors.training import seeded

FIELDS = Fields((6, 5, 3, 4))  # the third is the scene
MAKE = {
    "towers": lambda b: TwoTowers(
        b.fields, Sizes(2, 1.0, (6, 4), 0.1), "hybrid", detach_refund=False, backbone=b
    ),
    "amounts": lambda b: Amounts(b.fields, (2, 1.0), ((6,), (4,)), 2, head="absolute", backbone=b),
    "router": lambda b: Router(b.fields, (2, 1.0), (6, 4), b),
}


def outputs(net, ids):
    net.eval()
    with torch.no_grad():
        found = net(ids)
    return torch.stack(found, dim=1) if isinstance(found, tuple) else found.reshape(len(ids), -1)


def test_terms_are_summed_over_fields():
    terms = LinearTerms(Fields((2, 3)), 2)
    with torch.no_grad():
        terms.table.copy_(torch.arange(14.0).reshape(7, 2))  # rows 2 and 6 are unknown ids
    ids = Fields((2, 3)).encode(np.array([[1, 2], [0, 9]]))
    # Rows 1 and 3 + 2 = 5: (2, 3) + (10, 11); rows 0 and 6: (0, 1) + (12, 13).
    assert terms(ids).tolist() == [[12.0, 14.0], [12.0, 14.0]]


@pytest.mark.parametrize("backbone", ["plain", "mi_dpg"])
@pytest.mark.parametrize("kind", MAKE)
def test_outputs_are_those_of_the_layers_plus_the_terms(kind, backbone):
    config = BackboneConfig(backbone=backbone, scene_field=2, linear_terms=True)
    net = seeded(0, lambda: with_backbone(FIELDS, config, MAKE[kind]))
    drawn = np.random.default_rng(0).integers(0, FIELDS.cardinalities, (40, 4))
    ids = FIELDS.encode(drawn)  # many rows per scene: they are computed in another order
    plain = outputs(net, ids)
    assert not net.terms.table.any()  # they start at zero
    with torch.no_grad():
        net.terms.table.normal_(generator=torch.Generator().manual_seed(1))
    added = net.terms(ids).detach()
    found = outputs(net, ids)
    if kind == "amounts":  # log1p |z|, of a sum of layers and terms
        signs = [torch.log1p((torch.expm1(plain) * s + added).abs()) for s in (1, -1)]
        off = torch.minimum(*((found - each).abs() for each in signs))
        assert float(off.max()) < 1e-5
    else:
        torch.testing.assert_close(found, plain + added)
    if kind == "towers":
        torch.testing.assert_close(net.cvr_logit(ids), found[:, 0])
        torch.testing.assert_close(net.refund_logit(ids), found[:, 1])


def test_settling_rates_change_networks_and_their_names(tmp_path):
    log = LogStream(small_log(), SPLIT).history()
    made = Pretraining(log, SPLIT, cache=tmp_path)
    for settings in ({}, {"pretrain_settling": True}, {"linear_terms": True}):
        made.main(NetCVRConfig(**SIZES, **settings))
    assert len(list(tmp_path.glob("main_*.npz"))) == 3


def test_network_of_fnc_starts_where_its_stream_would_bring_it():
    # A third of the clicks convert, whatever they are: p = 1/3, and b = p / (1 + p) = 1/4 with one
    # negative more per conversion; FNC estimates b / (1 - b) = 1/3.
    log = LogStream(small_log(), SPLIT).history()
    clicks = np.repeat(log.click_time, 20)
    rows, never = np.arange(clicks.size), np.full(clicks.size, MISSING)
    alike = log._replace(
        click_time=clicks,
        conversion_time=np.where(rows % 3 == 0, clicks + 60, never),
        refund_time=never,
        features=np.repeat(log.features, 20, axis=0),
        p_convert=np.full(clicks.size, 1 / 3),
        p_refund=np.zeros(clicks.size),
    )
    found = {}
    for fake in (False, True):
        settings = {"pretrain_settling": True}
        config = NetCVRConfig(**SIZES, **settings, pretrain_fake_negatives=fake)
        made = Pretraining(alike, SPLIT)
        net = made.main(config)
        ids = made.fields.encode(log.features)
        found[fake] = float(probabilities(net, net.cvr_logit, ids).mean())
    assert found[False] == pytest.approx(1 / 3, abs=0.02)
    assert found[True] == pytest.approx(1 / 4, abs=0.02)
