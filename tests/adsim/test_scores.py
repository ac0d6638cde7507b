import math

import numpy as np
import pytest
from scipy.optimize import linprog

from adsim import scores
from adsim.scores import AuctionOutcome, ValueParts, fractional_knapsack, regret_split

NAN = float("nan")
INF = float("inf")


def test_net_value_is_margin_times_net_gmv_less_spend() -> None:
    # 0.3 x (100 + 60 - 40) - (10 + 5) = 36 - 15
    assert scores.net_value([100, 60], [0, 40], [10, 5], 0.3) == pytest.approx(21, rel=1e-15)


def test_net_value_takes_totals() -> None:
    assert scores.net_value(10.0, 0.0, 4.0, 1.0) == 6.0


@pytest.mark.parametrize("margin", [0, -0.1, 1.01, NAN])
def test_net_value_margin_out_of_range_raises(margin: float) -> None:
    with pytest.raises(ValueError, match=r"margin: .* must be in \(0, 1\]"):
        scores.net_value(1.0, 0.0, 0.0, margin)


def test_net_value_negative_or_nan_gmv_raises_naming_the_entry() -> None:
    with pytest.raises(ValueError, match=r"gmv\[1\] is -1.0, must be in \[0, inf\)"):
        scores.net_value([1, -1], 0, 0, 0.3)
    with pytest.raises(ValueError, match=r"spend\[\] is nan"):
        scores.net_value(1, 0, NAN, 0.3)


@pytest.mark.parametrize(
    ("spend", "actions", "cost"), [(10, 4, 2.5), (10, 0, INF), (0, 0, 0), (0, 3, 0)]
)
def test_cost_per_action_without_actions_is_defined(
    spend: float, actions: float, cost: float
) -> None:
    assert scores.cost_per_action(spend, actions) == cost


@pytest.mark.parametrize(
    ("value", "target", "actual", "score"),
    [
        (8, 100, 50, 8),  # below the target: no reward for it
        (8, 100, 100, 8),
        (8, 100, 200, 2),  # 8 x (1/2)^2
        (0, 100, INF, 0),  # money spent, no conversion
        (3, 100, INF, 0),
        (0, 100, 0, 0),  # nothing spent, no conversion
        (8, INF, INF, 8),  # no target
    ],
)
def test_auctionnet_score(value: float, target: float, actual: float, score: float) -> None:
    assert scores.auctionnet_score(value, target, actual) == score


def test_auctionnet_score_exponent() -> None:
    assert scores.auctionnet_score(8, 100, 200, exponent=1) == 4


@pytest.mark.parametrize(
    ("args", "name"),
    [
        ((-1, 100, 50), "value"),
        ((1, 0, 50), "target_cpa"),
        ((1, 100, NAN), "actual_cpa"),
        ((1, 100, 50, 0), "exponent"),
    ],
)
def test_auctionnet_score_out_of_range_raises(args: tuple[float, ...], name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: .* must be in"):
        scores.auctionnet_score(*args)


def test_rmse_to_traffic_hand_worked() -> None:
    # B f = 100 x (.1, .2, .3, .4) = (10, 20, 30, 40); errors (0, 10, -10, 20);
    # sqrt(600 / 4) / (100 / 4) = sqrt(150) / 25
    rmse = scores.rmse_to_traffic([10, 10, 40, 20], 100, [0.1, 0.2, 0.3, 0.4])
    assert rmse == pytest.approx(math.sqrt(150) / 25, rel=1e-14)


def test_rmse_to_traffic_scales_the_traffic_of_the_campaign() -> None:
    spend = [10, 10, 40, 20]
    assert scores.rmse_to_traffic(spend, 100, [1, 2, 3, 4]) == pytest.approx(math.sqrt(150) / 25)
    assert scores.rmse_to_traffic([25, 75], 100, [10, 30]) == 0


def test_rmse_to_traffic_bad_input_raises() -> None:
    with pytest.raises(ValueError, match=r"traffic_share: shape \(2,\), must be \(1,\)"):
        scores.rmse_to_traffic([1], 1, [1, 1])
    with pytest.raises(ValueError, match="traffic_share: sums to 0"):
        scores.rmse_to_traffic([1], 1, [0])
    with pytest.raises(ValueError, match="budget"):
        scores.rmse_to_traffic([1], 0, [1])
    with pytest.raises(ValueError, match="spend_per_tick: shape"):
        scores.rmse_to_traffic([], 1, [])


@pytest.mark.parametrize(
    ("spend", "quick"),
    [
        ([50, 41, 9, 0], True),
        ([50, 40, 10, 0], False),  # exactly 90 %
        ([90, 5, 5], False),  # first half of three ticks: one tick
        ([91, 5, 4], True),
        ([91], False),  # no first half
    ],
)
def test_is_quickspend(spend: list[float], quick: bool) -> None:
    assert scores.is_quickspend(spend, 100) is quick


def test_quickspend_share_over_campaigns() -> None:
    spend = [[95, 5], [50, 50], [5, 95], [9.5, 0]]
    assert scores.quickspend_share(spend, [100, 100, 100, 10]) == 0.5
    with pytest.raises(ValueError, match=r"budgets: shape \(1,\), must be \(4,\)"):
        scores.quickspend_share(spend, [100])


def test_relative_cpc_counts_ticks_without_clicks_as_zero() -> None:
    # (10/2 + 0 + 6/1) / 3 / 2
    cpc = scores.relative_cpc([10, 7, 6], [2, 0, 1], desired_cpc=2)
    assert cpc == pytest.approx(11 / 6, rel=1e-15)


def test_relative_cpc_without_clicks_is_the_penalty() -> None:
    assert scores.relative_cpc([10, 7], [0, 0], desired_cpc=2) == 1e4


def parts(ctr: object, cvr: object, refund_share: object, gmv: object) -> ValueParts:
    columns = np.broadcast_arrays(*(np.asarray(x, float) for x in (ctr, cvr, refund_share, gmv)))
    return ValueParts(*(np.atleast_1d(column) for column in columns))


def outcome(price: list[float], won: list[bool], paid: list[float]) -> AuctionOutcome:
    return AuctionOutcome(np.array(price), np.array(won), np.array(paid))


def test_expected_value_hand_worked() -> None:
    # 0.5 x 0.1 x 0.2 x (1 - 0.25) x 80 = 0.6
    assert scores.expected_value(parts(0.1, 0.2, 0.25, 80), 0.5) == pytest.approx([0.6])


def test_regret_split_bids_with_exact_estimates() -> None:
    # True values 4, 4, 4, 4; prices 1, 3, 6, 9. Best: win the first two, 3 + 1 = 4.
    # Won the first at 2.5 (1.5 too much), lost the second (1 missed), won the third at 7
    # (2 above the value to win at all, 1 too much), lost the fourth.
    true = parts([1, 1, 1, 1], 1, 0, 4)
    happened = outcome([1, 3, 6, 9], [True, False, True, False], [2.5, NAN, 7, NAN])
    split = regret_split(true, true, happened, 1.0)
    assert split == (0, 0, 0, 0, 0, 2.5, 2, 1)
    assert split.total == 4 - ((4 - 2.5) + (4 - 7))


def test_regret_split_estimation_by_component() -> None:
    # Second price, truthful on the estimate, one auction per component:
    # true value 0.5 x 0.5 x (1 - 0.5) x 80 = 10 everywhere.
    # 1: CTR 0.25 -> 5 < price 8: loses 10 - 8 = 2. 2: CVR 1 -> 20 > price 13: pays 3 too much.
    # 3: refunds 0 -> 20 > price 14: 4 too much. 4: GMV 40 -> 5 < price 9: loses 1.
    true = parts([0.5] * 4, 0.5, 0.5, 80)
    estimated = ValueParts(
        np.array([0.25, 0.5, 0.5, 0.5]),
        np.array([0.5, 1.0, 0.5, 0.5]),
        np.array([0.5, 0.5, 0.0, 0.5]),
        np.array([80.0, 80.0, 80.0, 40.0]),
    )
    happened = outcome([8, 13, 14, 9], [False, True, True, False], [NAN, 13, 14, NAN])
    split = regret_split(true, estimated, happened, 1.0)
    assert split == (0, 2, 3, 4, 1, 0, 0, 0)
    assert split.estimation == 10
    assert split.total == 10


def test_regret_split_cancelling_errors_leave_no_estimation_regret() -> None:
    # CTR halved, GMV doubled: the value is right. CTR alone would lose 10 - 8; GMV wins it back.
    true, estimated = parts(0.5, 1, 0, 20), parts(0.25, 1, 0, 40)
    split = regret_split(true, estimated, outcome([8], [True], [8]), 1.0)
    assert split == (0, 2, 0, 0, -2, 0, 0, 0)
    assert split.total == 0


def test_regret_split_shading_earns_back_an_overestimate() -> None:
    # Worth 4, believed 8, price 5, bid below 5: estimation costs 1, the bid returns it.
    split = regret_split(parts(1, 1, 0, 4), parts(1, 1, 0, 8), outcome([5], [False], [NAN]), 1.0)
    assert (split.gmv, split.underbid, split.total) == (1, -1, 0)


def test_regret_split_allocation_against_the_best_item() -> None:
    # Shown: worth 3 and 2; best: worth 5 and 2; prices 4 and 1. Best bidder 1 + 1, value bidder 1.
    true = parts([1, 1], 1, 0, [3, 2])
    happened = outcome([4, 1], [False, True], [NAN, 1])
    split = regret_split(true, true, happened, 1.0, best_value=[5, 2])
    assert split == (1, 0, 0, 0, 0, 0, 0, 0)


def test_regret_split_auctions_that_cannot_be_won_cost_nothing() -> None:
    split = regret_split(parts(1, 1, 0, 4), parts(1, 1, 0, 9), outcome([INF], [False], [NAN]), 1.0)
    assert split == (0,) * 8


def random_split(rng: np.random.Generator) -> tuple[float, scores.RegretSplit]:
    n = 200
    true, estimated = (
        ValueParts(rng.random(n), rng.random(n), rng.random(n), rng.lognormal(3, 1, n))
        for _ in range(2)
    )
    price = rng.lognormal(0, 1.5, n)
    won = rng.random(n) < 0.5
    paid = np.where(won, price * rng.uniform(1, 1.5, n), NAN)
    margin = 0.4
    value = scores.expected_value(true, margin)
    best = value * rng.uniform(1, 2, n)
    regret = np.maximum(best - price, 0).sum() - (value - paid)[won].sum()
    happened = AuctionOutcome(price, won, paid)
    return regret, regret_split(true, estimated, happened, margin, best)


@pytest.mark.parametrize("seed", range(20))
def test_regret_split_parts_sum_to_the_regret(seed: int) -> None:
    regret, split = random_split(np.random.default_rng(seed))
    assert sum(split) == pytest.approx(regret, rel=1e-12)
    assert split.total == pytest.approx(regret, rel=1e-12)
    assert min(split.allocation, split.estimation, split.overpayment, split.total) >= 0


def test_regret_split_bad_input_raises() -> None:
    good, happened = parts([1, 1], 1, 0, 4), outcome([1, 2], [True, False], [1, NAN])
    with pytest.raises(ValueError, match=r"estimated.cvr\[0\] is 2.0, must be in \[0, 1\]"):
        regret_split(good, parts([1, 1], 2, 0, 4), happened, 1.0)
    with pytest.raises(ValueError, match=r"true.ctr: shape \(1,\), must be \(2,\)"):
        regret_split(parts(1, 1, 0, 4), good, happened, 1.0)
    with pytest.raises(ValueError, match=r"paid .* is nan"):
        regret_split(good, good, outcome([1, 2], [True, True], [1, NAN]), 1.0)
    with pytest.raises(ValueError, match="paid: shape"):
        regret_split(good, good, happened._replace(paid=np.ones(1)), 1.0)
    with pytest.raises(ValueError, match="won: float64"):
        regret_split(good, good, happened._replace(won=np.ones(2)), 1.0)
    with pytest.raises(ValueError, match="price_to_beat: infinite"):
        regret_split(good, good, outcome([INF, 2], [True, False], [1, NAN]), 1.0)
    with pytest.raises(ValueError, match="best_value: below"):
        regret_split(good, good, happened, 1.0, best_value=[3, 4])
    with pytest.raises(ValueError, match="margin"):
        regret_split(good, good, happened, 0.0)


def test_share_of_hindsight() -> None:
    assert scores.share_of_hindsight(30, 40) == 0.75
    assert scores.share_of_hindsight(-10, 40) == -0.25
    assert math.isnan(scores.share_of_hindsight(0, 0))
    with pytest.raises(ValueError, match="bound"):
        scores.share_of_hindsight(1, -1)


def test_knapsack_hand_worked() -> None:
    # v/w = 3, 2, 1.5, below 1. Budget 5: all of 0 (2), 3/4 of 1 (4). Net 4 + 0.75 x 4 = 7.
    best = fractional_knapsack([6, 8, 3, 1], [2, 4, 2, 5], 5)
    assert best.allocation.tolist() == [1, 0.75, 0, 0]
    assert (best.multiplier, best.net_value, best.spend) == (1, 7, 5)


@pytest.mark.parametrize("budget", [8, 8.5, INF])
def test_knapsack_enough_budget_buys_all_above_their_price(budget: float) -> None:
    best = fractional_knapsack([6, 8, 3, 1], [2, 4, 2, 5], budget)
    assert best.allocation.tolist() == [1, 1, 1, 0]
    assert (best.multiplier, best.net_value, best.spend) == (0, 9, 8)


def test_knapsack_budget_that_ends_between_auctions_has_the_lower_dual() -> None:
    best = fractional_knapsack([6, 8, 3, 1], [2, 4, 2, 5], 2)
    assert best.allocation.tolist() == [1, 0, 0, 0]
    assert best.multiplier == 1  # 8/4 - 1; any value up to 6/2 - 1 is optimal too


def test_knapsack_free_auctions_are_bought_without_a_budget() -> None:
    best = fractional_knapsack([5, 0, -1, 6], [0, 0, 0, 2], 0)
    assert best.allocation.tolist() == [1, 0, 0, 0]
    assert (best.multiplier, best.net_value, best.spend) == (2, 5, 0)


def test_knapsack_nothing_worth_its_price() -> None:
    best = fractional_knapsack([1, -3, 2], [1, 0, INF], 10)
    assert best.allocation.tolist() == [0, 0, 0]
    assert best[1:] == (0, 0, 0)


def test_knapsack_counts_clicks_when_a_click_outweighs_every_price() -> None:
    clicks = np.array([1, 0, 1, 1])
    best = fractional_knapsack(clicks * 1000, [30, 1, 10, 20], 35)
    assert best.allocation @ clicks == pytest.approx(2 + 5 / 30)


@pytest.mark.parametrize("seed", range(40))
def test_knapsack_is_the_linear_programme(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 60))
    value = rng.normal(1, 2, n)
    price = rng.lognormal(0, 1, n) * (rng.random(n) < 0.9)  # a tenth is free
    budget = float(price.sum() * rng.random() ** 2)
    best = fractional_knapsack(value, price, budget)
    lp = linprog(price - value, A_ub=price[None], b_ub=[budget], bounds=(0, 1), method="highs")
    assert best.net_value == pytest.approx(-lp.fun, rel=1e-9, abs=1e-9)
    assert best.net_value == pytest.approx(best.allocation @ (value - price), rel=1e-12, abs=1e-12)
    assert best.spend == pytest.approx(best.allocation @ price, rel=1e-12, abs=1e-12)
    assert best.spend <= budget
    assert ((best.allocation >= 0) & (best.allocation <= 1)).all()
    # Strong duality: the multiplier is optimal for min lambda B + sum (v - w - lambda w)+.
    dual = best.multiplier * budget
    dual += np.maximum(value - price - best.multiplier * price, 0).sum()
    assert dual == pytest.approx(best.net_value, rel=1e-9, abs=1e-9)


def test_knapsack_bad_input_raises() -> None:
    with pytest.raises(ValueError, match=r"price\[0\] is -1.0"):
        fractional_knapsack([1], [-1], 1)
    with pytest.raises(ValueError, match=r"value\[1\] is nan"):
        fractional_knapsack([1, NAN], [1, 1], 1)
    with pytest.raises(ValueError, match=r"price: shape"):
        fractional_knapsack([1], [1, 1], 1)
    with pytest.raises(ValueError, match=r"budget: -1 is out of range"):
        fractional_knapsack([1], [1], -1)
