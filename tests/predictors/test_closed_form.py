"""Where each method's estimates tend to, worked out for one cell: all clicks are alike.

The seven fates of a click have known probabilities; real rules deliver their rows, real losses
weigh them. The expected gradient of a free logit vanishes at the method's fixed point.
"""

import numpy as np
import pytest
import torch
from click_logs import D_V, I_V, WINDOWS, fates_log, make_log
from torch import nn

from adsim.clicklog import MISSING
from predictors import PREDICTORS, NetCVRConfig
from predictors.delivery import RULES, Trajectory, Windows, deliver
from predictors.netcvr import Batch, NetCVRPredictor
from predictors.nets import Fields
from predictors.pretraining import UntrainedNetCVR
from predictors.tesla import online_weights

P_V, F_V, P_R, F_R = 0.066, 0.27, 0.245, 0.545  # conversion, in its window, refund, in its window
P_DP, P_IN = P_V * (1 - F_V), P_V * F_V
TN = (1 - P_V) / (1 - P_IN)
R_DP, R_IN = P_R * (1 - F_R), P_R * F_R
R_TN = (1 - P_R) / (1 - R_IN)
LOG = fates_log()  # one click per fate


def chances():
    """Of the seven fates, (7,)."""
    found = np.zeros(len(Trajectory))
    found[Trajectory.NO_CONVERSION] = 1 - P_V
    found[Trajectory.I_CONVERSION] = P_IN * (1 - P_R)
    found[Trajectory.D_CONVERSION] = P_DP * (1 - P_R)
    found[Trajectory.I_CONVERSION_I_REFUND] = P_IN * P_R * F_R
    found[Trajectory.I_CONVERSION_D_REFUND] = P_IN * P_R * (1 - F_R)
    found[Trajectory.D_CONVERSION_I_REFUND] = P_DP * P_R * F_R
    found[Trajectory.D_CONVERSION_D_REFUND] = P_DP * P_R * (1 - F_R)
    return found


def say(tower, *answers):
    """Makes a tower give these probabilities whatever its input."""
    last = tower[-1]
    assert isinstance(last, nn.Linear)
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(torch.logit(torch.tensor(answers, dtype=torch.float64)))


class Cell:
    """A method, its frozen networks with the cell's exact answers, and the rows of the fates."""

    def __init__(self, name, *, stale=P_V, delays=(TN, P_DP), **settings):
        make = PREDICTORS[name]
        assert issubclass(make, NetCVRPredictor)
        plain = {"embedding_dim": 1, "widths": (2,), "ranking": "none"}
        known = make.config_class.model_fields.keys() & plain.keys()  # some are of TESLA only
        settings = {key: plain[key] for key in known} | settings
        predictor = make(LOG.cardinalities, make.config_class(**settings))
        predictor._build(UntrainedNetCVR(Fields(LOG.cardinalities), 0))
        frozen = predictor.frozen
        if "main" in frozen:
            say(frozen["main"].cvr, stale)
            say(frozen["main"].refund, P_R)
        published = predictor.config.official_quirks
        answers = {
            "delays": delays,
            "pay": (P_IN, TN) if published else (1 - F_V,),
            "refund": (R_IN, R_TN) if published else (1 - F_R,),
        }
        for net in answers.keys() & set(frozen.keys()):
            say(frozen[net].tower, *answers[net])
        self.predictor, self.rule = predictor, RULES[predictor.rule]
        self.rows = deliver(LOG, WINDOWS, self.rule)
        self.weight = torch.from_numpy(chances()[self.rows.click])  # rows per click, (N,)
        batch = predictor._tensors(self.rows, LOG.features[self.rows.click], predictor.rule)
        self.batch = Batch(batch.ids, *(column.double() for column in batch[1:]))

    def pull(self, loss, logit, outputs):
        """Expected gradient of a loss by the free logits, (outputs,)."""
        shape = (len(self.weight), outputs) if outputs > 1 else (len(self.weight),)
        logits = torch.full(shape, logit, dtype=torch.float64, requires_grad=True)
        (gradient,) = torch.autograd.grad(loss(logits, self.batch), logits)
        per_row = gradient * len(self.weight)  # the loss is a mean over rows
        return (self.weight @ per_row.reshape(len(self.weight), -1)).numpy()

    def fixed_points(self, loss, outputs=1):
        """Probabilities at which the expected gradient is 0, (outputs,)."""
        found = []
        for output in range(outputs):
            low, high = -3.4, 3.0  # DEFER's weights have a pole at dp / 2, a logit of -3.7
            assert self.pull(loss, low, outputs)[output] < 0
            assert self.pull(loss, high, outputs)[output] > 0
            for _ in range(45):
                middle = (low + high) / 2
                below = self.pull(loss, middle, outputs)[output] < 0
                low, high = (middle, high) if below else (low, middle)
            found.append(1 / (1 + np.exp(-low)))
        return found

    def cvr(self):
        """What the method's CVR tends to."""
        (output,) = self.fixed_points(self.predictor.pay_loss)
        seen = torch.tensor([output])
        return self.predictor._conversion_probability(seen, self.batch.ids[:1]).item()

    def refund_rate(self):
        """What the method's refund rate tends to."""
        return self.fixed_points(self.predictor.second_loss)[0]


def test_losses_are_means_of_the_losses_of_their_rows():
    # What `Cell.pull` relies on.
    for name in ("tesla", "es_dfm", "defer", "ddfm", "defuse", "fnw", "fnc"):
        cell = Cell(name)
        logit = torch.linspace(-4, 1, len(cell.weight), dtype=torch.float64)
        for loss in (cell.predictor.pay_loss, cell.predictor.second_loss):
            rows = [slice(i, i + 1) for i in range(len(logit))]
            each = [loss(logit[row], cell.batch.rows(row)).item() for row in rows]
            assert loss(logit, cell.batch).item() == pytest.approx(np.mean(each), rel=1e-12)


# --- weights -----------------------------------------------------------------------------------
def test_expected_weights_of_the_cell():
    derived = [P_DP, TN, R_DP, R_TN]
    assert derived == pytest.approx([0.04818, 0.95095, 0.11148, 0.87135], abs=6e-6)
    for conversion, weights in ((True, (1.04818, 0.99676)), (False, (1.11148, 0.96848))):
        for quirks in (False, True):
            found = tesla_weights(conversion, official_quirks=quirks)
            np.testing.assert_allclose(found, np.tile(weights, (len(found), 1)), atol=6e-6)


def tesla_weights(conversion, p=None, **settings):
    """Weights (N, 2) of conversion or refund rows, at the true rate unless p says otherwise."""
    cell = Cell("tesla", **settings)
    p = p or (P_V if conversion else P_R)
    logit = torch.full((len(cell.weight),), p, dtype=torch.float64).logit()
    weights = torch.stack(cell.predictor._weights(logit, cell.batch), 1)
    return weights[cell.batch.conversion == conversion].numpy()


def test_weights_of_tesla_follow_its_own_estimate_and_the_published_ones_do_not():
    p, late = 0.1, 1 - F_V
    positive = 1 + p * late
    expected = positive, positive * (1 - p) / (1 - p + p * late)
    assert tesla_weights(True, p)[0] == pytest.approx(expected)
    published = tesla_weights(True, p, official_quirks=True)[0]
    assert published == pytest.approx((1.04818, 0.99676), abs=6e-6)
    stale = tesla_weights(True, official_quirks=True, stale=0.1)[0]
    assert stale == pytest.approx(np.array([1, TN]) * (1 + 0.1 - P_IN), rel=1e-6)


def test_weights_of_tesla_at_the_ends():
    one, none = torch.ones(1), torch.zeros(1)
    for p, late, expected in (
        (one, one, (2.0, 0.0)),
        (none, one, (1.0, 1.0)),
        (none, none, (1.0, 1.0)),
    ):
        found = [weight.item() for weight in online_weights(p, late)]
        assert found == pytest.approx(expected, abs=1e-30)
    # Rows that are not weighted keep their weights also where the estimate rounds to 1.
    p = torch.sigmoid(torch.tensor([0.0, 10.0, 16.0, 20.0, 100.0]))
    assert p[-1] == 1
    for weight in online_weights(p, torch.zeros(5)):
        assert weight.tolist() == [1.0] * 5


@pytest.mark.parametrize("quirks", [False, True])
def test_rows_that_are_not_weighted_have_weights_one(quirks):
    settings = {"refund_debiasing": False, "official_quirks": quirks}
    assert (tesla_weights(False, **settings) == 1).all()
    assert tesla_weights(True, **settings)[:, 0] == pytest.approx(1.04818, abs=6e-6)


def test_delay_constants_are_limited():
    floor = 1e-6
    for delays, limits in (((1e-9, 1e-9), (floor, floor)), ((1 - 1e-9,) * 2, (1 - floor,) * 2)):
        constants = Cell("es_dfm", delays=delays).batch.constants.numpy()
        np.testing.assert_allclose(constants, np.tile(limits, (len(constants), 1)), atol=1e-7)


def test_expected_weight_of_a_click_is_its_expected_number_of_rows():
    # p_v w+ + (1 - p_v + p_dp) w- = 1 + p_dp, and of the refund rows likewise.
    cell = Cell("tesla")
    for conversion, p, late_share in ((True, P_V, P_DP), (False, P_R, R_DP)):
        own = cell.rows.conversion_row == conversion
        label = (cell.batch.pay if conversion else cell.batch.refund).numpy()[own]
        rows = cell.weight.numpy()[own] / (1 if conversion else P_V)  # per click or conversion
        assert rows.sum() == pytest.approx(1 + late_share)
        assert rows @ label == pytest.approx(p)
        assert rows @ (1 - label) == pytest.approx(1 - p + late_share)
        weights = np.where(label == 1, *tesla_weights(conversion).T)
        assert rows @ weights == pytest.approx(1 + late_share, rel=1e-6)


@pytest.mark.parametrize(
    ("name", "rows_per_click"),
    [
        ("pre_trained", 0.0),
        ("trained_oracle", 1.0),
        ("bdl", 1.066),
        ("es_dfm", 1.06435),
        ("dfsn", 1.06435),
        ("fnc", 1.08217),
        ("fnw", 1.08217),
        ("tesla", 1.12154),
        ("ddfm", 1.99835),
        ("defer", 2.01617),
    ],
)
def test_expected_rows_per_click(name, rows_per_click):
    assert Cell(name).weight.sum().item() == pytest.approx(rows_per_click, abs=6e-6)


# --- degenerate cells --------------------------------------------------------------------------
@pytest.mark.parametrize("quirks", [False, True])
def test_without_refunds_tesla_and_es_dfm_learn_conversions_alike(quirks):
    found = []
    for name in ("tesla", "es_dfm"):
        cell = Cell(name, official_quirks=quirks)
        kept = cell.rows.conversion_row & (cell.rows.click <= Trajectory.D_CONVERSION)
        batch = cell.batch.rows(torch.from_numpy(kept))
        logit = torch.full((int(kept.sum()),), P_V, dtype=torch.float64).logit().requires_grad_()
        loss = cell.predictor.pay_loss(logit, batch)
        found += [loss.detach(), *torch.autograd.grad(loss, logit)]
    for tesla, es_dfm in zip(found[:2], found[2:], strict=True):
        torch.testing.assert_close(tesla, es_dfm, rtol=1e-6, atol=0)


def test_without_late_events_all_weights_are_one():
    p, none = torch.linspace(0.01, 0.99, 9), torch.zeros(9)
    for weights in (online_weights(p, none), Cell("defer").predictor.weights(p, none)):
        for weight in weights:
            torch.testing.assert_close(weight, torch.ones(9))
    # tn = 1, dp = 0: ES-DFM's loss is the plain cross-entropy of its rows, as DFSN's.
    cell, plain = Cell("es_dfm", delays=(1 - 1e-9, 1e-9)), Cell("dfsn")
    logit = torch.linspace(-3, 1, len(cell.weight), dtype=torch.float64)
    losses = [each.predictor.pay_loss(logit, each.batch).item() for each in (cell, plain)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


# --- CVR ---------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        *((name, {}, P_V) for name in ("tesla", "es_dfm", "defer", "ddfm", "fnw", "defuse")),
        *((name, {}, P_V) for name in ("trained_oracle", "bdl")),
        ("tesla", {"refund_window": False}, P_V),
        ("fnc", {}, P_V),  # after its correction
        ("fnc", {"official_quirks": True}, 0.06191),
        ("defuse", {"official_quirks": True}, 0.12315),
        ("es_dfm", {"delays": (0.96875, 0.03069)}, 0.06487),  # labels of one day: F(1 day) = .735
        ("fnw", {"official_quirks": True}, P_V),
        ("fnw", {"official_quirks": True, "stale": 0.052}, 0.06509),
        ("fnw", {"official_quirks": True, "stale": 0.080}, 0.06694),
        *((name, {"official_quirks": True}, P_V) for name in ("tesla", "es_dfm", "defer", "ddfm")),
        ("tesla", {"official_quirks": True, "stale": 0.052}, P_V),  # w+ cancels
    ],
)
def test_cvr_tends_to(name, settings, expected):
    assert Cell(name, **settings).cvr() == pytest.approx(expected, abs=6e-6)


def test_cvr_without_weights_is_diluted_by_the_second_rows():
    # p_v / (1 + p_dp): the main network of DFSN.
    cell = Cell("dfsn")
    (output,) = cell.fixed_points(cell.predictor.pay_loss)
    assert output == pytest.approx(0.06297, abs=6e-6)


@pytest.mark.parametrize("quirks", [False, True])
def test_outputs_of_miss_tend_to_what_their_windows_show(quirks):
    # The cell's conversions in window come after 500 s: too late for the first head (432 s), in
    # time for the second (576 s) and for the whole window, which the mixture learns, too.
    assert 432 < I_V <= 576 < D_V
    cell = Cell("miss", official_quirks=quirks)
    found = cell.fixed_points(cell.predictor.pay_loss, outputs=4)
    assert found == pytest.approx([P_DP / (1 + P_DP), *[0.06297] * 3], abs=6e-6)


def test_weights_of_defer_at_its_fixed_point():
    predictor = Cell("defer").predictor
    w1, w0 = predictor.weights(torch.tensor(P_V), torch.tensor(P_DP))
    assert [w1.item(), w0.item()] == pytest.approx([1.5748, 0.97486], abs=6e-5)


def test_weights_of_defer_where_its_formula_is_undefined():
    p = torch.tensor([1e-30, 0.02, P_DP / 2, 0.0242])
    w1, _ = Cell("defer").predictor.weights(p, torch.tensor(P_DP))
    assert w1.tolist() == pytest.approx([20.0] * 4)
    quirk, _ = Cell("defer", official_quirks=True).predictor.weights(p, torch.tensor(P_DP))
    assert quirk[1].item() == pytest.approx(1e-6)
    assert quirk[3].item() > 20
    # Without positives, an estimate below dp / 2 falls for good; the limit brings it back.
    for quirks in (True, False):
        cell = Cell("defer", official_quirks=quirks)
        pull = cell.pull(cell.predictor.pay_loss, -3.8, 1).item()
        assert pull > 0 if quirks else pull < 0


@pytest.mark.parametrize("quirks", [False, True])
def test_weights_of_defer_are_finite(quirks):
    # The first logit's probability is 0 in float32; the last is p = dp / 2.
    p = torch.sigmoid(torch.tensor([-104.0, -102.0, -87.0, -50.0, 0.0, 100.0]))
    p = torch.cat([p, torch.tensor([P_DP / 2])])
    assert p[0] == 0
    predictor = Cell("defer", official_quirks=quirks).predictor
    for dp in (1e-6, P_DP, 1 - 1e-6):
        for weight in predictor.weights(p, torch.tensor(dp)):
            assert torch.isfinite(weight).all()
            assert (weight >= 0).all()


def test_corrected_estimate_of_fnc_stays_below_one():
    output = torch.tensor([0.0, 0.2, 0.49, 0.5, 0.9, 1.0])
    found = Cell("fnc").predictor._conversion_probability(output, Cell("fnc").batch.ids[:6])
    assert found.tolist() == pytest.approx([0, 0.25, 0.49 / 0.51, *[1 - 1e-6] * 3], abs=1e-7)
    assert (found < 1).all()


@pytest.mark.parametrize("window", [864, 15, 60, 120, 900])
def test_defuse_takes_a_conversion_in_the_last_second_of_the_window_as_in_it(window):
    windows = Windows(conversion_observation=window)
    log = make_log([0, 0], [window, window + 1], [MISSING, MISSING])
    settings = NetCVRConfig(embedding_dim=1, widths=(2,), windows=windows)
    predictor = PREDICTORS["defuse"](log.cardinalities, settings)
    predictor._build(UntrainedNetCVR(predictor.fields, 0))
    say(predictor.frozen["delays"].tower, 0.5, 0.5)
    rows = deliver(log, windows, RULES["defuse"])
    rows = type(rows)(*(column[rows.pay_label == 1] for column in rows))
    batch = predictor._tensors(rows, log.features[rows.click], "defuse")
    assert batch.constants.tolist() == [[0.5, 0.5, 0.0], [0.5, 0.5, 1.0]]
    logit = torch.zeros(2, requires_grad=True)
    predictor.pay_loss(logit, batch).backward()
    weight = logit.grad * 2 / -0.5  # of a mean over two rows, by the slope of l1
    assert weight.tolist() == pytest.approx([1.5, 1.0])  # 1 + dp in the window, 1 after it


# --- refund rate, NetCVR -----------------------------------------------------------------------
REFUND_RATES = [
    *((name, {}, 0.19679) for name in ("es_dfm", "fnc", "fnw", "defuse", "ddfm", "miss", "dfsn")),
    ("tesla", {"refund_window": False}, 0.19679),
    ("tesla", {"refund_debiasing": False}, 0.22043),
    ("defer", {}, 0.16172),
    *((name, {}, P_R) for name in ("tesla", "bdl", "trained_oracle")),
]


@pytest.mark.parametrize(("name", "settings", "expected"), REFUND_RATES)
@pytest.mark.parametrize("quirks", [False, True])
def test_refund_rate_tends_to(name, settings, expected, quirks):
    cell = Cell(name, official_quirks=quirks, **settings)
    if name == "miss" and quirks:  # its refund tower is frozen
        assert cell.pull(cell.predictor.second_loss, 0.3, 1).item() == 0
    else:
        assert cell.refund_rate() == pytest.approx(expected, abs=6e-6)


@pytest.mark.parametrize(
    ("name", "settings", "ratio"),
    [
        ("es_dfm", {}, 1.0639),
        ("tesla", {"refund_debiasing": False}, 1.0325),
        ("defer", {}, 1.1103),
        ("tesla", {}, 1.0),
    ],
)
def test_net_cvr_is_too_high_where_the_refund_rate_is_too_low(name, settings, ratio):
    cell = Cell(name, **settings)
    net = cell.cvr() * (1 - cell.refund_rate())
    assert net / (P_V * (1 - P_R)) == pytest.approx(ratio, abs=6e-5)


def test_direct_net_cvr_of_the_oracle_and_of_es_dfm():
    # Net labels: 1 - p_r of the conversions; ES-DFM adds rows of conversions and of refunds.
    assert Cell("trained_oracle", head="direct").refund_rate() == pytest.approx(P_V * (1 - P_R))
    rows = 1 + P_DP + P_V * P_R
    assert Cell("es_dfm", head="direct").refund_rate() == pytest.approx(P_V / rows)
