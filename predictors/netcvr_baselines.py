"""The methods that TESLA is compared with, in the two-tower setting.

Conversion towers follow the methods' papers; refund towers are all alike: a payment counts as "not
refunded" at once and a refund corrects it later, without weights, so that their refund rate tends
to p_r / (1 + p_r) (DEFER: lower still, it reads payments in the window twice). With
`official_quirks` each does what the code published with TESLA does (alimama-tech/NetCVR, commit
2a8b78a); its docstring names the difference. Softmax cross-entropies are l1 = softplus(-o) on
positives and l0 = softplus(o) on negatives; p is the conversion tower's probability.

Sources:
    FNC, FNW: Ktena et al., "Addressing Delayed Feedback for Continuous Training with Neural
        Networks in CTR prediction", RecSys 2019, arXiv:1907.06558.
    ES-DFM: Yang et al., "Capturing Delayed Feedback in Conversion Rate Prediction via Elapsed-Time
        Sampling", AAAI 2021, arXiv:2012.03245.
    DEFER: Gu et al., "Real Negatives Matter: Continuous Training with Real Negatives for Delayed
        Feedback Modeling", KDD 2021, arXiv:2104.14121.
    DEFUSE: Chen et al., "Asymptotically Unbiased Estimation for Delayed Feedback Modeling via Label
        Correction", WWW 2022, arXiv:2202.06472.
    DDFM, DFSN, MISS: as described in TESLA, arXiv:2601.19965, and its published code.
"""

from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from predictors.base import register_predictor
from predictors.delivery import Rows, head_labels
from predictors.netcvr import Batch, NetCVRPredictor
from predictors.nets import Stack, TwoTowers, bce, probabilities, weighted_bce
from predictors.neural import DailyLots
from predictors.pretraining import NetCVRConfig, Pretraining, new_towers
from predictors.training import descend

PROBABILITY_FLOOR = 1e-6  # published clamp of delay models' probabilities
MAX_WEIGHT = 20.0  # of DEFER's positives


@register_predictor("pre_trained")
class PreTrained(NetCVRPredictor):
    """The model of before the stream; learns nothing more."""

    name, rule = "pre_trained", "pre_trained"


@register_predictor("trained_oracle")
class TrainedOracle(NetCVRPredictor):
    """Learns the final labels at the moment of the click: the bound of the online methods.

    Privileged: its windows must hold the future events of their clicks (`LogStream.window`).
    """

    name, rule = "trained_oracle", "oracle"
    privileged = True


@register_predictor("bdl")
class BatchDelayed(DailyLots[Batch], NetCVRPredictor):
    """Waits for final labels, and trains once a day on the rows of the past day, shuffled.

    The day's model is ready one window after the day has ended.
    """

    name, rule = "bdl", "bdl"


class _WithDelayModel(NetCVRPredictor):
    """Has a frozen model of (truly negative | none in the window, conversion after the window)."""

    def _build(self, pretraining: Pretraining) -> None:
        super()._build(pretraining)
        self._freeze("delays", pretraining.delays("tn_dp", self.config))

    def _constants(self, batch: Batch, rows: Rows) -> Tensor:
        """(tn, dp) of every row, (N, 2)."""
        both = probabilities(self.frozen["delays"], self.frozen["delays"], batch.ids)
        return both.clamp(PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR)


@register_predictor("fnc")
class FakeNegativeCalibration(NetCVRPredictor):
    """FNC: every click is a negative until it converts; the estimate is corrected to p / (1 - p).

    With `official_quirks` the correction is left out: CVR tends to p_v / (1 + p_v).
    """

    name, rule = "fnc", "fnc"

    def _conversion_probability(self, output: Tensor, ids: Tensor) -> Tensor:
        if self.config.official_quirks:
            return output
        odds = output / (1 - output).clamp(min=PROBABILITY_FLOOR)
        return odds.clamp(max=1 - PROBABILITY_FLOOR)


@register_predictor("fnw")
class FakeNegativeWeighted(NetCVRPredictor):
    """FNW: the rows of FNC with weights 1 + p and (1 - p)(1 + p), p the model's own.

    With `official_quirks` p is that of the pre-trained model.
    """

    name, rule = "fnw", "fnw"

    def _build(self, pretraining: Pretraining) -> None:
        super()._build(pretraining)
        if self.config.official_quirks:
            self._freeze("main", pretraining.main(self.config))

    def _constants(self, batch: Batch, rows: Rows) -> Tensor:
        if "main" not in self.frozen:
            return batch.constants
        main = self.frozen["main"]
        return probabilities(main, main.cvr_logit, batch.ids)[:, None]  # pyright: ignore

    def pay_loss(self, logit: Tensor, batch: Batch) -> Tensor:
        """Weighted cross-entropy."""
        own = torch.sigmoid(logit.detach())
        p = batch.constants[:, 0] if self.config.official_quirks else own
        return weighted_bce(logit, batch.pay, batch.conversion, 1 + p, (1 - p) * (1 + p))


@register_predictor("es_dfm")
class ElapsedTimeSampling(_WithDelayModel):
    """ES-DFM: labels of the observation window, conversions after it again; weights of both.

    Weights are 1 + dp and (1 + dp) tn.
    """

    name, rule = "es_dfm", "es_dfm"

    def pay_loss(self, logit: Tensor, batch: Batch) -> Tensor:
        """Weighted cross-entropy."""
        tn, dp = batch.constants.unbind(1)
        return weighted_bce(logit, batch.pay, batch.conversion, 1 + dp, (1 + dp) * tn)


@register_predictor("defer")
class RealNegatives(_WithDelayModel):
    """DEFER: every click twice, when its window closes and when its label is final.

    Weights are p / (p - dp / 2) and (1 - p) / (1 - p + dp / 2), p the model's own. The former is
    undefined for p <= dp / 2: it is limited to 20 here; with `official_quirks` it has no upper
    limit, and falls to 1e-6 there.
    """

    name, rule = "defer", "defer"
    learning_rate = 1e-3

    def pay_loss(self, logit: Tensor, batch: Batch) -> Tensor:
        """Weighted cross-entropy."""
        w1, w0 = self.weights(torch.sigmoid(logit.detach()), batch.constants[:, 1])
        return weighted_bce(logit, batch.pay, batch.conversion, w1, w0)

    def weights(self, p: Tensor, dp: Tensor) -> tuple[Tensor, Tensor]:
        """Of positives and negatives."""
        w0 = (1 - p) / (1 - p + dp / 2)
        if self.config.official_quirks:
            # The published code gives infinity at p = dp / 2, and NaN in the loss.
            return (p / (p - dp / 2)).clamp(PROBABILITY_FLOOR, 1 / PROBABILITY_FLOOR), w0
        least = (p / MAX_WEIGHT).clamp(min=torch.finfo(p.dtype).tiny)
        return p / torch.maximum(p - dp / 2, least), w0


@register_predictor("defuse")
class LabelCorrection(_WithDelayModel):
    """DEFUSE: the rows of ES-DFM; an observed negative is a fake one with probability 1 - tn.

    Positives in the window weigh 1 + dp and late ones 1; a negative counts as
    (1 - tn) dp l1 + tn (1 + dp) l0. With `official_quirks` all positives weigh (1 + dp) + 1, which
    nearly doubles the odds.
    """

    name, rule = "defuse", "defuse"

    def _constants(self, batch: Batch, rows: Rows) -> Tensor:
        """(tn, dp), and 1 if the row's event came after the window, (N, 3)."""
        late = rows.delay > self.config.windows.conversion_observation
        column = torch.from_numpy(late[:, None]).float().to(self.device)
        return torch.cat([super()._constants(batch, rows), column], dim=1)

    def pay_loss(self, logit: Tensor, batch: Batch) -> Tensor:
        """Cross-entropy of corrected labels."""
        tn, dp, late = batch.constants.unbind(1)
        l1, l0 = softplus(-logit), softplus(logit)
        weight = 2 + dp if self.config.official_quirks else 1 + (1 - late) * dp
        negative = (1 - tn) * dp * l1 + tn * (1 + dp) * l0
        loss = batch.pay * weight * l1 + (1 - batch.pay) * negative
        return (batch.conversion * loss).mean()


@register_predictor("ddfm")
class DualFeedback(_WithDelayModel):
    """DDFM: the rows of ES-DFM; clicks that do not convert come again when that is final (flagged).

    An early negative counts as (1 - tn) l1 + tn l0, a final one as |1 - zeta| l1 + zeta l0 with
    zeta = 1 - p + dp, p the model's own.
    """

    name, rule = "ddfm", "ddfm"

    def pay_loss(self, logit: Tensor, batch: Batch) -> Tensor:
        """Cross-entropy of corrected labels."""
        tn, dp = batch.constants.unbind(1)
        l1, l0 = softplus(-logit), softplus(logit)
        zeta = torch.where(batch.flag == 1, 1 - torch.sigmoid(logit.detach()) + dp, tn)
        loss = batch.pay * l1 + (1 - batch.pay) * ((1 - zeta).abs() * l1 + zeta * l0)
        return (batch.conversion * loss).mean()


class PlainConfig(NetCVRConfig):
    """Settings of methods whose towers are put together in other ways."""

    backbone: Literal["plain"] = "plain"  # pyright: ignore[reportIncompatibleVariableOverride]
    """Its layers are plain ones."""


class _ManyHeads(TwoTowers):
    """A conversion tower with three heads and their mixture: logits (B, 4), the mixture last."""

    def __init__(self, *sizes: Any, **options: Any) -> None:
        super().__init__(*sizes, **options)
        last = self.cvr[-1]
        assert isinstance(last, nn.Linear)
        self.cvr = Stack(*list(self.cvr)[:-1], _Mixture(last.in_features))


class _Mixture(nn.Module):
    """Three heads, and weights of their mixture from the heads' probabilities."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.heads, self.weigh = nn.Linear(inputs, 3), nn.Linear(6, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (B, 4)."""
        heads = self.heads(inputs)
        each = torch.sigmoid(heads)
        weights = torch.softmax(self.weigh(torch.cat([each, torch.softmax(each, 1)], 1)), 1)
        mixed = (weights * each).sum(1, keepdim=True)
        mixed = mixed.clamp(PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR)
        return torch.cat([heads, torch.logit(mixed)], 1)


@register_predictor("miss")
class MultiInterval(NetCVRPredictor):
    """MISS: heads for conversions within 1/2, 2/3 and all of the window, and their mixture.

    The rows are those of ES-DFM, without weights (the published re-weighting of positives has
    coefficient 0): CVR tends to p_v / (1 + p_dp). The heads start as copies of the pre-trained
    output. With `official_quirks` they start at random, and the refund tower's weights are frozen.
    """

    name, rule = "miss", "miss"
    config_class = PlainConfig

    def _build(self, pretraining: Pretraining) -> None:
        super()._build(pretraining)
        start = pretraining.main(self.config)
        assert isinstance(start, TwoTowers)
        heads = new_towers(self.fields, self.config, self.seed + 1, _ManyHeads)
        state = start.state_dict()
        *_, weight, bias = (name for name in state if name.startswith("cvr."))
        output = {name: state.pop(name) for name in (weight, bias)}
        missing = heads.load_state_dict(state, strict=False).missing_keys
        mixture = heads.cvr[-1]
        assert isinstance(mixture, _Mixture)
        assert all(name.startswith("cvr.") for name in missing)
        if not self.config.official_quirks:
            with torch.no_grad():
                mixture.heads.weight.copy_(output[weight].expand(3, -1))
                mixture.heads.bias.copy_(output[bias].expand(3))
        self._add("main", heads)

    def _constants(self, batch: Batch, rows: Rows) -> Tensor:
        """Pay labels of the heads, (N, 3)."""
        labels = head_labels(rows, self.config.windows)
        return torch.from_numpy(labels).float().to(self.device)

    def _logits(self, ids: Tensor) -> Tensor:
        cvr, second = self.main(ids)
        return torch.stack([cvr[:, -1], second], dim=1)

    def pay_loss(self, logit: Tensor, batch: Batch) -> Tensor:
        """Cross-entropies of the heads and of the mixture, summed."""
        labels = torch.cat([batch.constants, batch.pay[:, None]], 1)
        return bce(logit, labels, batch.conversion[:, None]) * labels.shape[1]

    def refund_loss(self, logit: Tensor, batch: Batch) -> Tensor:
        """As the other baselines'; 0 with `official_quirks`."""
        if self.config.official_quirks:
            return logit.sum() * 0.0
        return super().refund_loss(logit, batch)


class _WithSatellites(TwoTowers):
    """Adds to its conversion tower what two other networks know, without training them.

    Its input is e_m W_m + e_f W_f + e_u W_u of the embeddings of the three, and its logit is added
    to that of the unbiased satellite.
    """

    def __init__(self, *sizes: Any, **options: Any) -> None:
        super().__init__(*sizes, **options)
        first = self.cvr[0]
        assert isinstance(first, nn.Linear)
        self.mix = nn.Parameter(torch.randn(3, first.in_features, first.in_features))
        self.satellites: list[TwoTowers] = []  # feature and unbiased; in a list: not its own

    def attach(self, *satellites: nn.Module) -> None:
        """Feature and unbiased satellite."""
        self.satellites = [net for net in satellites if isinstance(net, TwoTowers)]

    def cvr_logit(self, ids: Tensor) -> Tensor:
        """(B,) of the sum."""
        with torch.no_grad():
            others = [net.cvr_inputs(ids) for net in self.satellites]
            _, unbiased = self.satellites
            training = unbiased.training
            offset = unbiased.eval().cvr_logit(ids)
            unbiased.train(training)
        inputs = [self.cvr_inputs(ids), *others]
        mixed = sum(e @ w for e, w in zip(inputs, self.mix, strict=True))
        return self.cvr(mixed).squeeze(1) + offset

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Both logits (B,)."""
        return self.cvr_logit(ids), self.refund_logit(ids)


@register_predictor("dfsn")
class FollowUpSatellites(NetCVRPredictor):
    """DFSN: a main network on the rows of ES-DFM, helped by two satellites on newer rows.

    The feature satellite learns what is known after half the window, the unbiased one is FNW; CVR
    is the larger of the feature satellite's and the main network's. Main network and satellites
    start from the pre-trained one, so that their sum is the pre-trained estimate; with
    `official_quirks` the main network keeps its output layer and mixes inputs by N(0, 1) matrices.
    (The published code also computes the satellites' part of the sum with statistics of the batch,
    and updates their running ones; here it is computed in eval mode throughout.)
    """

    name, rule = "dfsn", "dfsn"
    config_class = PlainConfig

    def _build(self, pretraining: Pretraining) -> None:
        super()._build(pretraining)
        start = self.nets["main"].state_dict()
        for name in ("feature", "unbias"):
            self._add(name, self._new_main())
            self.nets[name].load_state_dict(start)
        main = new_towers(self.fields, self.config, self.seed + 1, _WithSatellites)
        main.load_state_dict(start, strict=False)
        if not self.config.official_quirks:
            output = main.cvr[-1]
            assert isinstance(output, nn.Linear)
            with torch.no_grad():
                none = torch.zeros_like(main.mix[0])
                main.mix.copy_(torch.stack([torch.eye(len(none)), none, none]))
                output.weight.zero_()
                output.bias.zero_()
        main.attach(self.nets["feature"], self.nets["unbias"])
        self._add("main", main)

    def _learn(self) -> None:
        for name in ("feature", "unbias"):
            rule = f"dfsn_{name}"
            self._train(self._due(rule), rule, partial(self._satellite_step, name))
        super()._learn()

    def _satellite_step(self, name: str, batch: Batch) -> float:
        net = self.nets[name]
        assert isinstance(net, TwoTowers)
        logit = net.cvr_logit(batch.ids)
        p = torch.sigmoid(logit.detach()) * (name == "unbias")
        loss = weighted_bce(logit, batch.pay, batch.conversion, 1 + p, (1 - p) * (1 + p))
        descend(self.optimisers[name], loss)
        return float(loss.detach())

    def _conversion_probability(self, output: Tensor, ids: Tensor) -> Tensor:
        feature = self.nets["feature"]
        assert isinstance(feature, TwoTowers)
        return torch.maximum(output, probabilities(feature, feature.cvr_logit, ids))
