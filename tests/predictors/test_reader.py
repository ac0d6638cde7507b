"""READER's labels, routing and loss, worked out by hand."""

import math

import numpy as np
import pytest
import torch
from purchase_logs import DAY, TIMELINE, make_log
from pydantic import ValidationError
from small_gmv import fitted, gmv, say, some_ids, stream
from small_predictors import differing, state
from torch import tensor

from predictors import PREDICTORS, ReaderConfig
from predictors.gmv import GmvRows
from predictors.gmv_baselines import OnlineDual
from predictors.gmv_pretraining import UntrainedGmv
from predictors.nets import Fields
from predictors.purchase_rows import RowKind
from predictors.purchase_stream import PurchaseStream, run_gmv_stream
from predictors.reader import calibrated

LOG = make_log((DAY, (0, 1.0)), TIMELINE)  # click 1: 80, 50 and 30 at days 60.2569, 61.75, 66.25
ELAPSED = (600 / 604_800, 129_600 / 604_800, 518_400 / 604_800)
DELTAS = (0.7, 0.3, 0.2)


def told(name, r=0.6, **settings):
    """An untrained method whose router says `r`, and its calibrator `DELTAS` on the timeline."""
    cls = PREDICTORS[name]
    sizes = {"encoder_widths": (2,), "tower_widths": (2,), "router_widths": (2,)}
    sizes |= {"batch_size": 4, "embedding_dim": 1, "calibrator_widths": (2,)}
    paper = {"mixing": "currency", "router_temperature": 1.0}  # its formulas, with the r given
    settings = sizes | paper | settings
    predictor = cls(LOG.cardinalities, cls.config_class(**settings))
    predictor._build(UntrainedGmv(Fields(LOG.cardinalities), 0))
    if "router" in predictor.frozen:
        say(predictor.frozen["router"].output, math.log(r / (1 - r)))
    if "calibrator" in predictor.frozen:
        # Elapsed time and count weigh so that the three purchases have their deltas.
        inputs = np.column_stack([ELAPSED, (1, 2, 3), np.ones(3)])
        *weights, bias = np.linalg.solve(inputs, np.log(np.expm1(DELTAS)))
        layer = predictor.frozen["calibrator"].output
        say(layer, bias)
        with torch.no_grad():
            layer.weight[0, -2:] = tensor(weights)
    return predictor


def timeline(predictor, log=LOG, windows=(25, 26, 38, 74, 82, 198)):
    """(window, label, share of the repurchase tower, unlearning label) of each training row."""
    plays, found = PurchaseStream(log), []
    for k in windows:  # by default, those in which something happens
        predictor.open.update(plays.window(k, privileged=predictor.privileged))
        batch = predictor._new_rows(predictor.rule)
        predictor.open.close()
        columns = (torch.expm1(batch.target), batch.several, torch.expm1(batch.unlearn))
        rows = zip(*(column.tolist() for column in columns), strict=True)
        found += [(k, *row) for row in rows]
    return found


# --- the timeline ------------------------------------------------------------------------------
def test_rows_and_labels_of_the_timeline():
    rows = timeline(told("reader"), windows=range(199))
    assert [k for k, *_ in rows] == [26, 38, 74, 82]
    assert PurchaseStream(LOG).test_clicks(25) == slice(1, 2)  # tested before it is trained on
    labels = [label for _, label, *_ in rows]
    assert labels == pytest.approx([129.27, 175.83, 195.65, 160.0], abs=0.005)
    assert [several for _, _, several, _ in rows] == pytest.approx([0.6, 1, 1, 1])
    # What the last purchase was taught comes out again at the end of the window.
    assert rows[-1][3] == pytest.approx(rows[-2][1], rel=1e-6) == pytest.approx(195.65, abs=0.005)


@pytest.mark.parametrize(
    ("r", "zones", "label"),
    [
        (0.6, False, 129.27),
        (0.6, True, 129.27),
        (0.95, False, 158.00),
        (0.95, True, 162.11),
        (0.05, False, 84.11),
        (0.05, True, 80.00),
    ],
)
def test_labels_are_mixed_for_every_probability_or_in_the_middle_zone_only(r, zones, label):
    first = timeline(told("reader", r, target_zones=zones))[0]
    assert first[1] == pytest.approx(label, abs=0.01)
    assert first[2] == pytest.approx({0.6: 0.6, 0.95: 1.0, 0.05: 0.0}[r])  # in the prediction


def test_labels_mixed_in_logs():
    # log(81) + .6 x .7; from the second purchase on there is nothing to mix.
    labels = [label for _, label, *_ in timeline(told("reader", mixing="log"))]
    first = 81 * math.exp(0.6 * 0.7) - 1
    assert labels == pytest.approx([first, 175.83, 195.65, 160.0], abs=0.005)
    zones = timeline(told("reader", 0.95, mixing="log", target_zones=True))
    assert zones[0][1] == pytest.approx(162.11, abs=0.005)


@pytest.mark.parametrize(("quirks", "mixing"), [(False, "log"), (True, "currency")])
def test_what_is_mixed_by_default(quirks, mixing):
    default, given, other = (
        timeline(told("reader", mixing=each, official_quirks=quirks))
        for each in (None, mixing, {"log": "currency", "currency": "log"}[mixing])
    )
    assert default == given != other


def test_published_labels_have_zones_at_temperature_one_half():
    # Logit log(1.5), doubled: r = 2.25 / 3.25.
    settings = {"official_quirks": True, "mixing": None, "router_temperature": None}
    first, *_ = timeline(told("reader", 0.6, **settings))
    r = 2.25 / 3.25
    assert first[1] == pytest.approx((1 - r) * 80 + r * (81 * math.exp(0.7) - 1), rel=1e-5)
    assert first[2] == pytest.approx(r)
    first, *_ = timeline(told("reader", 0.76, **settings))  # .909: the upper zone
    assert first[1:3] == pytest.approx((162.11, 1.0), abs=0.005)


def test_rows_of_the_other_methods():
    online = [(26, 80.0), (38, 130.0), (74, 160.0)]
    ends = [(82, 160.0)]
    for name, expected in (
        ("pre_single", []),
        ("pre_dual", []),
        ("online_single", online),
        ("online_dual", online),
        ("offline_single", ends),
        ("offline_dual", ends),
        ("oracle_single", [(26, 160.0)]),
        ("oracle_dual", [(26, 160.0)]),
    ):
        rows = timeline(told(name))
        assert [row[0] for row in rows] == [k for k, _ in expected], name
        assert [row[1] for row in rows] == pytest.approx([label for _, label in expected])
        assert all(row[3] == 0 for row in rows)
    for name, shares in (
        ("online_dual", [0.6, 1, 1]),
        ("offline_dual", [1]),
        ("oracle_dual", [1]),
    ):
        assert [row[2] for row in timeline(told(name))] == pytest.approx(shares)


def test_the_offline_lot_of_the_timeline_is_ready_for_test_segment_88(monkeypatch):
    predictor, plays, trained = told("offline_single"), PurchaseStream(LOG), []
    predictor.open.follow(plays.history(), plays.start - 1)
    monkeypatch.setattr(
        predictor, "_train", lambda rows, *_: trained.append((k, rows.target.tolist()))
    )
    for k in range(plays.split.num_segments):
        predictor.partial_fit(plays.window(k))
    assert [k for k, _ in trained] == list(range(8, 199, 8))  # days 0 to 23 of the stream
    lots = {k: labels for k, labels in trained if labels}
    assert lots == {88: pytest.approx([math.log(161)])}


def test_ends_of_windows_of_single_purchases():
    # What the only purchase was taught depends on the router, what the click is does not.
    log = make_log((DAY, (0, 1.0)), (5_205_600, (600, 80.0)))
    for settings, unlearn in (
        ({"r": 0.6}, 129.27),
        ({"r": 0.05}, 84.11),
        ({"r": 0.05, "target_zones": True}, 80.0),
    ):
        _, end = timeline(told("reader", **settings), log)
        assert end[:3] == (82, pytest.approx(80.0), 0.0)
        assert end[3] == pytest.approx(unlearn, abs=0.005)


def test_known_kinds_override_the_router():
    for r in (0.02, 0.5, 0.98):
        predictor = told("reader", r)
        first, *later, end = (several for _, _, several, _ in timeline(predictor))
        assert first == pytest.approx({0.02: 0.0, 0.5: 0.5, 0.98: 1.0}[r])
        assert [*later, end] == [1, 1, 1]
    rows = timeline(told("reader", 0.98), make_log((DAY, (0, 1.0)), (5_205_600, (600, 80.0))))
    assert [row[2] for row in rows] == [1, 0]  # wrong at first


def test_labels_carry_no_gradient():
    predictor = told("reader")
    for parameters in predictor.frozen.values():
        assert not any(weight.requires_grad for weight in parameters.parameters())
    predictor.open.update(PurchaseStream(LOG).window(26))
    batch = predictor._new_rows(predictor.rule)
    assert not any(column.requires_grad for column in batch)


def test_calibrated_labels_by_hand():
    seen, several = torch.log1p(tensor([80.0] * 4)), tensor([0.0, 0.6, 1.0, 0.3])
    delta = tensor([0.7, 0.7, 0.7, 0.0])
    found = torch.expm1(calibrated(seen, several, delta))
    assert found.tolist() == pytest.approx([80, 129.268, 162.114, 80], abs=0.001)
    found = calibrated(seen, several, delta, in_logs=True)
    expected = [math.log(81) + r * d for r, d in ((0, 0), (0.6, 0.7), (1, 0.7), (0, 0))]
    assert found.tolist() == pytest.approx(expected, rel=1e-6)


# --- routing -----------------------------------------------------------------------------------
def test_zones_of_the_router():
    inner = [0.1 + 1e-6, 0.5, 0.9 - 1e-6]
    found = told("online_dual").shares(tensor([0.0, 0.1, *inner, 0.9, 1.0])).tolist()
    assert found == pytest.approx([0, 0, *inner, 1, 1], abs=1e-7)
    other = told("online_dual", router_low=0.3, router_high=0.6)
    assert other.shares(tensor([0.3, 0.5, 0.6])).tolist() == pytest.approx([0, 0.5, 1])


def test_hard_routing_takes_the_likelier_tower():
    predictor = told("online_dual", routing="hard")
    assert predictor.shares(tensor([0.0, 0.49, 0.5, 1.0])).tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("settings", "temperature"),
    [
        ({"router_temperature": None}, 0.7),
        ({"router_temperature": None, "official_quirks": True}, 0.5),
        ({"router_temperature": 0.5}, 0.5),
        ({"router_temperature": 1.0}, 1.0),
        ({"router_temperature": 2.0, "official_quirks": True}, 2.0),
    ],
)
def test_the_router_s_temperature(settings, temperature):
    predictor = told("online_dual", 0.7, **settings)
    odds = (7 / 3) ** (1 / temperature)
    found = predictor.repurchase_probability(torch.zeros(3, 1, dtype=torch.int64))
    assert found.tolist() == pytest.approx([odds / (1 + odds)] * 3)


ROUTED = [
    ("currency", 0.05, 100),
    ("currency", 0.25, 150),
    ("currency", 0.6, 220),
    ("currency", 0.95, 300),
    ("log", 0.05, 100),
    ("log", 0.25, 101**0.75 * 301**0.25 - 1),
    ("log", 0.6, 101**0.4 * 301**0.6 - 1),
    ("log", 0.95, 300),
]


@pytest.mark.parametrize(("mixing", "r", "expected"), ROUTED)
def test_estimates_are_routed(mixing, r, expected):
    predictor = told("pre_dual", r, mixing=mixing)
    for tower, amount in zip(predictor.main.towers, (100, 300), strict=True):
        say(tower[-1], math.log(amount))  # log1p(e^x) is what softplus makes of it
    ids = torch.zeros(2, 1, dtype=torch.int64)
    (found,) = predictor._estimates(ids).values()
    assert found.tolist() == pytest.approx([expected] * 2, rel=1e-5)


# --- loss --------------------------------------------------------------------------------------
def batch_of(*rows):
    """Training rows (label, 1 at the end of a window, unlearning label), amounts."""
    label, end, unlearn = (tensor(column) for column in zip(*rows, strict=True))
    ids = torch.zeros(len(rows), 1, dtype=torch.int64)
    return GmvRows(ids, torch.log1p(label), torch.ones(len(rows)), end, torch.log1p(unlearn))


def slopes(predictor, batch, *amounts):
    """Loss, and its derivatives by log1p of the predicted amounts."""
    predicted = torch.log1p(tensor(amounts)).requires_grad_()
    loss = predictor.loss(predicted, batch)
    loss.backward()
    return loss.item(), predicted.grad.tolist()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [({}, (-0.05, 0.15, 0.05)), ({"gra_in_main": True}, (-1.05, 1.15, 1.05))],
)
def test_slopes_of_the_loss_at_the_end_of_a_window(settings, expected):
    predictor, batch = told("reader", **settings), batch_of((160.0, 1.0, 195.65))
    found = [slopes(predictor, batch, amount)[1][0] for amount in (150.0, 175.0, 210.0)]
    assert found == pytest.approx(expected, rel=1e-5)


def test_loss_by_hand():
    batch = batch_of((100.0, 0.0, 0.0), (50.0, 0.0, 0.0), (160.0, 1.0, 195.65), (80.0, 1.0, 80.0))
    amounts = (120.0, 50.0, 150.0, 90.0)
    errors = [
        abs(math.log((1 + a) / (1 + b))) for a, b in zip(amounts, (100, 50, 160, 80), strict=True)
    ]
    unlearning = (math.log(196.65 / 151) + math.log(91 / 81)) / 2
    ends = 0.1 * ((errors[2] + errors[3]) / 2 - 0.5 * unlearning)
    alone = slopes(told("reader"), batch, *amounts)[0]
    assert alone == pytest.approx((errors[0] + errors[1]) / 2 + ends, rel=1e-5)
    for setting in ("gra_in_main", "official_quirks"):
        found = slopes(told("reader", **{setting: True}), batch, *amounts)[0]
        assert found == pytest.approx(sum(errors) / 4 + ends, rel=1e-5)
    bare = slopes(told("reader", calibrate=False), batch, *amounts)[0]  # nothing is unlearned
    assert bare == pytest.approx(alone - ends + 0.1 * (errors[2] + errors[3]) / 2, rel=1e-5)


@pytest.mark.parametrize(
    ("in_main", "purchase", "end"), [(False, 1 / 3, 0.1 / 2), (True, 1 / 5, 1 / 5 + 0.1 / 2)]
)
def test_weight_of_the_end_of_a_window(in_main, purchase, end):
    # Of 5 rows 2 are ends, which weigh lambda_1 / 2 and, in the published code, 1 / 5 more.
    rows = [(100.0, 0.0, 0.0)] * 3 + [(160.0, 1.0, 160.0)] * 2
    predictor = told("reader", unlearning_weight=0.0, gra_in_main=in_main)
    _, found = slopes(predictor, batch_of(*rows), *[300.0] * 5)
    assert found == pytest.approx([purchase] * 3 + [end] * 2)


def test_with_exact_calibration_unlearning_only_rescales_alignment():
    batch = batch_of((160.0, 1.0, 160.0), (70.0, 1.0, 70.0), (30.0, 0.0, 0.0))
    amounts = (150.0, 100.0, 20.0)
    half = slopes(told("reader", unlearning_weight=0.5), batch, *amounts)
    other = slopes(told("reader", unlearning_weight=0.0, gra_weight=0.05), batch, *amounts)
    assert half[0] == pytest.approx(other[0])
    assert half[1] == pytest.approx(other[1])


@pytest.mark.parametrize("weight", [0.0, 0.5, 0.99])
@pytest.mark.parametrize("in_main", [False, True])
def test_the_minimum_is_the_final_amount_whatever_the_weight_of_unlearning(weight, in_main):
    predictor = told("reader", unlearning_weight=weight, gra_in_main=in_main)
    batch = batch_of((160.0, 1.0, 195.65))
    amounts = np.concatenate([np.geomspace(1, 1e6, 400), [160.0, 195.65]])
    losses = [slopes(predictor, batch, float(amount))[0] for amount in amounts]
    assert amounts[np.argmin(losses)] == 160.0


@pytest.mark.parametrize("weight", [1.0, 1.5])
def test_unlearning_without_a_minimum_is_rejected(weight):
    with pytest.raises(ValidationError, match=r"unlearning_weight\n.*less than 1"):
        ReaderConfig(unlearning_weight=weight)


@pytest.mark.parametrize("settings", [{}, {"gra_in_main": True}])
@pytest.mark.parametrize("end", [0.0, 1.0])
def test_batches_of_purchases_or_ends_only_have_finite_losses(settings, end):
    batch = batch_of((160.0, end, 195.65), (20.0, end, 20.0))
    loss, found = slopes(told("reader", **settings), batch, 150.0, 30.0)
    assert math.isfinite(loss)
    assert np.isfinite(found).all()
    if end == 0:  # the mean of the errors
        assert loss == pytest.approx((math.log(161 / 151) + math.log(31 / 21)) / 2)
        assert found == pytest.approx([-0.5, 0.5])


# --- parts -------------------------------------------------------------------------------------
def test_without_calibration_and_ends_it_is_online_dual(tmp_path):
    plain = fitted("online_dual", learning_rate=0.01)
    bare = fitted("reader", learning_rate=0.01, calibrate=False, window_ends=False)
    results = [run_gmv_stream(predictor, stream()) for predictor in (plain, bare)]
    np.testing.assert_array_equal(results[0].gmv, results[1].gmv)
    assert plain.losses == bare.losses
    assert bare.frozen.keys() == {"router"}
    different = differing(state(plain, tmp_path), state(bare, tmp_path))
    assert different == {"about"}


class OnlineDualEnds(OnlineDual):
    rule = "purchases_and_ends"


def test_without_calibration_and_alignment_it_is_online_dual_that_trains_on_ends_too():
    settings = {"calibrate": False, "gra_in_main": True, "gra_weight": 0.0}
    bare, built = (fitted("reader", learning_rate=0.01, **settings) for _ in range(2))
    expected = OnlineDualEnds(bare.fields.cardinalities, None)
    expected.config = built.config
    expected.nets, expected.frozen = built.nets, built.frozen
    expected.optimisers, expected.open = built.optimisers, built.open
    results = [run_gmv_stream(predictor, stream()) for predictor in (bare, expected)]
    np.testing.assert_array_equal(results[0].gmv, results[1].gmv)
    assert bare.losses == expected.losses
    assert bare.trained_rows == expected.trained_rows


def test_every_part_matters():
    found = []
    for settings in (
        {},
        {"calibrate": False},
        {"window_ends": False},
        {"unlearning_weight": 0.0},
        {"gra_weight": 0.0},
        {"gra_in_main": True},
        {"target_zones": True, "router_low": 0.4},
        {"router_temperature": 1.0},
        {"mixing": "currency"},
    ):
        predictor = fitted("reader", learning_rate=0.01, **settings)
        run_gmv_stream(predictor, stream())
        found.append(tuple(gmv(predictor, some_ids())))
    assert len(set(found)) == len(found)


def test_ends_of_windows_are_rows_of_reader_only_if_wanted():
    with_ends, without = fitted("reader"), fitted("reader", window_ends=False)
    for predictor in (with_ends, without):
        predictor.open.update(stream().window(0))
    kinds = [set(p._new_rows(p.rule).window_end.tolist()) for p in (with_ends, without)]
    assert kinds == [{float(kind) for kind in RowKind}, {0.0}]
