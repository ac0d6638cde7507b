import math

import numpy as np
import pytest
import torch
from small_predictors import SPLIT, fitted, new_predictor, small_log
from torch import tensor
from torch.nn.functional import softplus

from predictors.delivery import RULES, deliver
from predictors.stream import LogStream
from predictors.tesla import Side, delay_weights, ranking_loss

VARIANTS = ["rn", "ln", "hn", "dar"]


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


def logits(*values):
    return tensor(values, dtype=torch.float32, requires_grad=True)


# --- delay weights -----------------------------------------------------------------------------
def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def test_delay_weights_by_hand():
    # Median 2 h, standard deviation of (0, 2, 7) is sqrt(13) h.
    weights = delay_weights(tensor([0.0, 2.0, 7.0]))
    expected = [1 + sigmoid(h / math.sqrt(13)) for h in (2, 0, -5)]
    assert weights.tolist() == pytest.approx(expected)


def test_delay_weights_run_from_two_to_one():
    hours = tensor([5.0] * 20 + [-1e6, 1e6])  # the spread stays far below 1e6 hours
    weights = delay_weights(hours)
    assert (weights[:20] == 1.5).all()
    assert weights[20:].tolist() == pytest.approx([2.0, 1.0], abs=0.05)
    late, early = delay_weights(tensor([0.0, 0.0, 0.0, 71.9])), delay_weights(tensor([-71.9, 0, 0]))
    assert 1 < late[3] < 1.5 < early[0] < 2


def test_delay_weights_use_the_lower_median():
    weights = delay_weights(tensor([0.0, 1.0, 2.0, 3.0]))
    assert weights[1] == 1.5  # 1, not 1.5 or 2, is the middle


def test_delay_weights_take_a_spread_of_at_least_an_hour():
    hours = tensor([0.1, 0.2, 0.3])  # standard deviation .1 h
    expected = [1 + sigmoid(x) for x in (0.1, 0.0, -0.1)]
    assert delay_weights(hours).tolist() == pytest.approx(expected)
    assert delay_weights(tensor([40.0])).tolist() == [1.5]  # one delay has no spread
    assert delay_weights(tensor([4.0, 4.0])).tolist() == [1.5, 1.5]


# --- ranking loss ------------------------------------------------------------------------------
def rank(positive, negative, delay, count, ranking, seed=0, weight=None, chance=None):
    """`ranking_loss`; weights are 1, and chances 1 - p, unless given."""
    weight = torch.ones(len(positive)) if weight is None else tensor(weight)
    chance = torch.sigmoid(-negative.detach()) if chance is None else tensor(chance)
    sides = Side(positive, weight), Side(negative, chance)
    return ranking_loss(*sides, tensor(delay), count, ranking, draws(seed))


def by_hand(positive, negative, delay, count, ranking, seed, weight, chance):
    """The ranking loss in plain loops, with the generator's draws."""
    chances = {
        "rn": [1.0] * len(negative),
        "hn": [sigmoid(o) for o in negative],
    }.get(ranking, chance)
    uniform = torch.rand(len(positive), count, generator=draws(seed)).numpy() * sum(chances)
    weights = weight
    if ranking == "dar":
        weights = (tensor(weight) * delay_weights(tensor(delay))).tolist()
    total = 0.0
    for i, (o, w) in enumerate(zip(positive, weights, strict=True)):
        pairs = 0.0
        for u in uniform[i]:
            j = next(j for j in range(len(negative)) if u <= sum(chances[: j + 1]) + 1e-6)
            pairs += math.log1p(math.exp(negative[j] - o))
        total += w * pairs / count
    return total / sum(weights)


@pytest.mark.parametrize("ranking", VARIANTS)
@pytest.mark.parametrize("seed", range(5))
def test_ranking_loss_by_hand(ranking, seed):
    rng = np.random.default_rng(seed)
    positive, negative = rng.normal(-1, 1, 4).tolist(), rng.normal(-2, 1, 6).tolist()
    delay, weight = rng.exponential(20, 4).tolist(), rng.uniform(1, 2, 4).tolist()
    settings = (delay, 7, ranking, seed, weight, rng.uniform(0, 1, 6).tolist())
    loss = rank(tensor(positive), tensor(negative), *settings).item()
    assert loss == pytest.approx(by_hand(positive, negative, *settings), rel=1e-5)


@pytest.mark.parametrize("ranking", VARIANTS)
def test_ranking_loss_depends_on_differences_only(ranking):
    # With one negative, the draws do not depend on the logits.
    positive, delay = tensor([0.3, -1.0, 0.8]), [0.1, 5.0, 40.0]
    at = [
        rank(positive + c, tensor([-0.5]) + c, delay, 9, ranking).item() for c in (0.0, 3.0, -12.0)
    ]
    assert at[1:] == pytest.approx([at[0]] * 2, rel=1e-5)
    expected = softplus(tensor([-0.8, 0.5, -1.3]))
    weight = delay_weights(tensor(delay)) if ranking == "dar" else torch.ones(3)
    assert at[0] == pytest.approx(((weight * expected).sum() / weight.sum()).item(), rel=1e-6)


def test_moving_all_logits_leaves_the_loss_with_fixed_chances_unchanged():
    positive, negative, chance = tensor([0.3, -1.0]), tensor([-3.0, 0.5, 2.0]), [0.9, 0.4, 0.2]
    for ranking in ("rn", "ln", "dar"):
        at = [
            rank(positive + c, negative + c, [1.0, 9.0], 50, ranking, 4, chance=chance).item()
            for c in (0.0, 5.0)
        ]
        assert at[1] == pytest.approx(at[0], rel=1e-5)


@pytest.mark.parametrize("ranking", VARIANTS)
def test_no_positive_or_no_negative_costs_nothing(ranking):
    for sizes in ((0, 3), (3, 0), (0, 0)):
        positive, negative = (logits(*[0.5] * size) for size in sizes)
        sides = (Side(side, torch.ones(len(side))) for side in (positive, negative))
        generator = draws()
        loss = ranking_loss(*sides, torch.zeros(sizes[0]), 5, ranking, generator)
        assert loss.item() == 0
        loss.backward()
        assert positive.grad.tolist() == [0.0] * sizes[0]
        assert negative.grad is None or not negative.grad.any()
        assert torch.equal(generator.get_state(), draws().get_state())  # nothing is drawn


@pytest.mark.parametrize("ranking", VARIANTS)
def test_gradients_reach_both_of_a_pair_and_not_the_draws(ranking):
    positive, negative = logits(0.2), logits(-0.7)
    rank(positive, negative, [3.0], 4, ranking).backward()
    # d softplus(n - p): no term of the chances, in which p_j appears, too.
    slope = sigmoid(-0.7 - 0.2)
    assert negative.grad.item() == pytest.approx(slope, rel=1e-6)
    assert positive.grad.item() == pytest.approx(-slope, rel=1e-6)


def test_gradients_of_many_pairs_are_those_of_fixed_draws():
    values, count = [-2.0, 0.0, 1.5], 40
    negative, positive = logits(*values), logits(0.4, -0.3)
    rank(positive, negative, [1.0, 1.0], count, "hn", 3).backward()
    chances = torch.sigmoid(tensor(values)).cumsum(0)
    uniform = torch.rand((2, count), generator=draws(3)) * chances[-1]
    drawn = torch.searchsorted(chances, uniform)
    expected = torch.zeros(3)
    for i in range(2):
        for j in drawn[i].tolist():
            expected[j] += sigmoid(values[j] - positive[i].item()) / (2 * count)
    np.testing.assert_allclose(negative.grad, expected, rtol=1e-5)
    assert positive.grad.sum().item() == pytest.approx(-expected.sum().item(), rel=1e-5)


CHANCES = np.array([0.9, 0.1, 0.5, 0.25])  # given, of "ln" and "dar"


@pytest.mark.parametrize(
    ("ranking", "law"),
    [
        ("rn", lambda p: np.ones(4)),
        ("ln", lambda p: CHANCES),
        ("dar", lambda p: CHANCES),
        ("hn", lambda p: p),
    ],
)
def test_negatives_are_drawn_by_their_law(ranking, law):
    # The slope of the loss by a negative's logit counts how often it was drawn.
    values, count = np.array([-3.0, -1.0, 0.0, 2.0]), 200_000
    negative, positive = logits(*values), tensor([0.5])
    chance = CHANCES.astype(np.float32)
    rank(positive, negative, [1.0], count, ranking, 7, chance=chance).backward()
    shares = negative.grad.numpy() / [sigmoid(value - 0.5) for value in values]
    expected = law(1 / (1 + np.exp(-values)))
    expected = expected / expected.sum()
    deviation = np.sqrt(expected * (1 - expected) / count)
    assert (np.abs(shares - expected) < 4 * deviation + 1e-4).all()


@pytest.mark.parametrize("ranking", VARIANTS)
def test_distant_logits_do_not_overflow(ranking):
    for low, high in ((-1e3, 1e3), (1e3, -1e3)):
        positive, negative = logits(low, low, 0.0), logits(high, 0.0, high)
        loss = rank(positive, negative, [0.0, 70.0, 1.0], 50, ranking)
        loss.backward()
        assert 0 <= loss.item() <= 2_000
        assert torch.isfinite(positive.grad).all()
        assert torch.isfinite(negative.grad).all()


def test_chances_that_are_all_zero_draw_something():
    loss = rank(tensor([0.0]), logits(900.0, 901.0), [1.0], 5, "dar", chance=[0.0, 0.0])
    assert loss.item() == pytest.approx(900, abs=2)


# --- losses of the towers ----------------------------------------------------------------------
def some_batch(predictor):
    """Rows of a few clicks of the small log."""
    log = small_log()
    rows = deliver(log, predictor.config.windows, RULES[predictor.rule])
    rows = type(rows)(*(column[:400] for column in rows))
    return predictor._tensors(rows, log.features[rows.click], predictor.rule)


@pytest.mark.parametrize(("quirks", "coefficients"), [(False, (0.1, 0.1)), (True, (1.0, 0.1))])
def test_losses_add_a_ranking_loss_to_the_cross_entropy(quirks, coefficients):
    tesla, none = (fitted("tesla", ranking=r, official_quirks=quirks) for r in ("dar", "none"))
    batch = some_batch(tesla)
    torch.testing.assert_close(batch.constants, some_batch(none).constants)
    logit = torch.linspace(-4, 1, len(batch.pay))
    # Published: negatives by 1 - p and positives alike; else both by their weights.
    weights = torch.ones_like(logit), torch.sigmoid(-logit)
    if not quirks:
        weights = tesla._weights(logit, batch)
    towers = (
        ("pay_loss", batch.pay, batch.conversion, 50),
        ("refund_loss", batch.refund, 1 - batch.conversion, 5),
    )
    for (loss, label, mask, count), coefficient in zip(towers, coefficients, strict=True):
        tesla.generator.manual_seed(11)
        added = getattr(tesla, loss)(logit, batch) - getattr(none, loss)(logit, batch)
        rows = (mask * label == 1), (mask * (1 - label) == 1)
        sides = (Side(logit[r], weight[r]) for r, weight in zip(rows, weights, strict=True))
        expected = ranking_loss(*sides, batch.delay[rows[0]], count, "dar", draws(11))
        assert rows[0].sum() > 10
        assert added.item() == pytest.approx(coefficient * expected.item(), rel=1e-4)


def test_delays_of_positives_are_hours_from_their_cause():
    batch = some_batch(fitted("tesla"))
    log = small_log()
    rows = deliver(log, fitted("tesla").config.windows, RULES["tesla"])
    for i in range(400):
        click, happened = rows.click[i], rows.delay[i] >= 0
        if rows.conversion_row[i]:
            seconds = log.conversion_time[click] - log.click_time[click]
        else:
            seconds = log.refund_time[click] - log.conversion_time[click]
        expected = seconds / 3_600 if happened else -1
        assert batch.delay[i].item() == pytest.approx(expected, rel=1e-6)


# --- switches ----------------------------------------------------------------------------------
def test_rule_follows_the_refund_window():
    assert new_predictor("tesla").rule == "tesla"
    assert new_predictor("tesla", refund_debiasing=False).rule == "tesla"
    assert new_predictor("tesla", refund_window=False).rule == "es_dfm"


@pytest.mark.parametrize(
    ("settings", "towers"),
    [
        ({}, {"pay", "refund"}),
        ({"refund_debiasing": False}, {"pay"}),
        ({"refund_window": False}, {"pay"}),
    ],
)
@pytest.mark.parametrize("quirks", [False, True])
def test_frozen_networks_are_those_the_weights_need(settings, towers, quirks):
    predictor = fitted("tesla", official_quirks=quirks, **settings)
    assert set(predictor.frozen.keys()) == towers | ({"main"} if quirks else set())
    outputs = {predictor.frozen[tower].tower[-1].out_features for tower in towers}
    assert outputs == {2 if quirks else 1}
    assert not any(weight.requires_grad for weight in predictor.frozen.parameters())


@pytest.mark.parametrize(
    ("tables", "private", "shared"),
    [("separate", True, False), ("shared", False, True), ("hybrid", True, True)],
)
def test_table_kinds_have_their_tables(tables, private, shared):
    main = fitted("tesla", tables=tables).main
    assert (main.private_cvr is not None) == (main.private_refund is not None) == private
    assert (main.shared is not None) == shared
    assert main.cvr[0].in_features == 22 * 2 * (private + shared)


def test_shared_tables_are_read_by_both_towers():
    main = fitted("tesla", tables="shared").main
    ids = new_predictor("tesla").fields.encode(small_log().features[:8])
    for logit in (main.cvr_logit, main.refund_logit):
        main.zero_grad(set_to_none=True)
        logit(ids).sum().backward()
        assert main.shared.grad.any()


def weights(module):
    return {name: value.detach().clone() for name, value in module.named_parameters()}


def moved(before, after):
    """Names of the parameters that have changed."""
    return {name for name, value in after.items() if not value.equal(before[name])}


def watch_losses(predictor, monkeypatch):
    """A list that fills with (name, weights at that moment) of the losses as they are computed."""
    seen = []

    def watch(name):
        plain = getattr(predictor, name)

        def loss(*arguments):
            seen.append((name, weights(predictor.main)))
            return plain(*arguments)

        monkeypatch.setattr(predictor, name, loss)

    watch("pay_loss")
    watch("second_loss")
    return seen


def test_published_steps_train_the_refund_tower_first_and_apart(monkeypatch):
    predictor = fitted("tesla", official_quirks=True)
    batch, seen = some_batch(predictor), watch_losses(predictor, monkeypatch)
    for _ in range(2):  # in the second round, the idle tower has moments, too
        predictor._step(batch)
    names, snapshots = zip(*seen, ("end", weights(predictor.main)), strict=True)
    assert names == ("second_loss", "pay_loss", "second_loss", "pay_loss", "end")
    for name, before, after in zip(names, snapshots, snapshots[1:], strict=False):
        tower = "cvr" if name == "pay_loss" else "refund"
        own = {key for key in before if key.startswith((f"{tower}.", "shared"))}
        changed = moved(before, after)
        assert changed <= own | {f"private_{tower}"}
        assert {f"{tower}.0.weight", f"private_{tower}", "shared"} <= changed


@pytest.mark.parametrize(("quirks", "steps"), [(False, (1, 1, 1)), (True, (1, 1, 2))])
def test_joint_loss_takes_one_step_and_the_published_code_two(quirks, steps):
    predictor = fitted("tesla", official_quirks=quirks)
    predictor._step(some_batch(predictor))
    main, state = predictor.main, predictor.optimisers["main"].state
    tables = (main.private_cvr, main.private_refund, main.shared)
    assert tuple(int(state[table]["step"]) for table in tables) == steps


def test_other_methods_train_the_conversion_tower_first(monkeypatch):
    predictor = fitted("es_dfm", official_quirks=True)
    seen = watch_losses(predictor, monkeypatch)
    predictor._step(some_batch(predictor))
    assert [name for name, _ in seen] == ["pay_loss", "second_loss"]


@pytest.mark.parametrize("quirks", [False, True])
@pytest.mark.parametrize("tables", ["separate", "shared", "hybrid"])
def test_refund_embeddings_stay_frozen_on_request(tables, quirks):
    predictor = fitted(
        "tesla", tables=tables, train_refund_embeddings=False, official_quirks=quirks
    )
    before = weights(predictor.main)
    predictor.partial_fit(LogStream(small_log(), SPLIT).window(0))
    changed = moved(before, weights(predictor.main))
    assert {"refund.0.weight", "cvr.0.weight"} <= changed
    assert "private_refund" not in changed
    assert changed & {"private_cvr", "shared"} == set(before) & {"private_cvr", "shared"}
