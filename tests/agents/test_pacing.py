import numpy as np
import pytest

from adsim.scores import fractional_knapsack
from agents.pacing import (
    AdaptivePacingAgent,
    DualPacingAgent,
    NoiseScale,
    PIDGains,
    PIDPacingAgent,
    adaptive_step,
    mirror_step,
    pacing_error,
    pid_step,
)

PACERS = [DualPacingAgent, AdaptivePacingAgent, PIDPacingAgent]


def test_pacing_error_by_hand():
    # target 60 x 1/4 = 15, spend 12, mean tick 10
    assert pacing_error(12.0, 60.0, 0.25, 10.0) == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("mirror", "expected"),
    [
        ("euclidean", [1.2, 0.8, 0.0]),  # mu - eta g
        ("entropy", [np.exp(0.2), np.exp(-0.2), 0.1 * np.exp(-0.2)]),  # mu exp(-eta g)
        # (1 + mu) exp(-eta g) - 1, at least 0: 1.1 exp(-0.2) < 1
        ("shifted_entropy", [2 * np.exp(0.2) - 1, 2 * np.exp(-0.2) - 1, 0.0]),
    ],
)
def test_mirror_step_by_hand(mirror, expected):
    dual, gradient = np.array([1.0, 1.0, 0.1]), np.array([-2.0, 2.0, 2.0])
    assert mirror_step(dual, gradient, 0.1, mirror) == pytest.approx(expected)


def test_mirror_step_solves_its_argmin():
    # argmin g mu + V_h(mu, mu_t) / eta with h = (1 + mu) log(1 + mu), on a fine grid
    start, gradient, eta = 0.8, -1.5, 0.2
    mu = np.linspace(0, 5, 500_001)
    bregman = (1 + mu) * np.log((1 + mu) / (1 + start)) - (mu - start)
    best = mu[np.argmin(gradient * mu + bregman / eta)]
    assert mirror_step(start, gradient, eta) == pytest.approx(best, abs=1e-4)


def test_adaptive_step_projects_to_its_interval():
    mu = adaptive_step(np.array([0.5, 0.5, 0.5]), np.array([0.5, 10.0, -10.0]), 0.1, 1.2)
    assert mu == pytest.approx([0.45, 0.0, 1.2])


def test_pid_step_by_hand():
    gains = PIDGains(0.5, 0.1, 0.2)
    phi, integral = pid_step(-1.0, 0.4, 0.1, gains)
    # integral -1 + 0.1 x 0.4 = -0.96; phi = -0.96 + 0.5 x 0.4 + 0.2 x 0.3 = -0.7
    assert integral == pytest.approx(-0.96)
    assert phi == pytest.approx(-0.7)


def test_pid_step_never_bids_above_value_nor_winds_up():
    phi, integral = pid_step(np.array([-0.01, 0.0]), 3.0, 0.0, PIDGains(1.0, 1.0, 0.0))
    assert phi.tolist() == [0.0, 0.0]
    assert integral.tolist() == [0.0, 0.0]


def test_noise_scale_leaves_a_steady_error_and_damps_an_alternating_one():
    steady, noisy = NoiseScale(), NoiseScale()
    for _ in range(100):
        assert steady.normalise(2.0) == 2.0
    for i in range(200):
        last = noisy.normalise(3.0 if i % 2 else -3.0)
    # differences of 6: half their square is 18
    assert last == pytest.approx(3.0 / np.sqrt(18.0), rel=0.01)


def test_dual_agent_moves_lambda_by_the_spend_of_the_tick(market):
    agent = DualPacingAgent(warm_start=False)
    agent.reset(market.campaign(40.0, traffic=[1.0] * 4))
    assert agent.act(market.observation([8.0], 40.0)) == pytest.approx([8.0])
    agent.observe(market.outcome_info([True], 12.0))
    # error (40 / 4 - 12) / 10 = -0.2, eta = 1 / sqrt(4): lambda = exp(0.1) - 1
    assert agent.dual == pytest.approx(np.expm1(0.1))
    # rate left (28 / 3) / 10: half of its log leads the bid
    expected = 8.0 * np.exp(-0.1 + 0.5 * np.log(28.0 / 30.0))
    assert agent.act(market.observation([8.0], 28.0)) == pytest.approx([expected])


def test_dual_agent_ignores_an_outcome_before_the_first_bid(market):
    agent = DualPacingAgent(warm_start=False)
    agent.reset(market.campaign())
    agent.observe(market.outcome_info([False], 0.0))
    assert agent.act(market.observation([8.0], 100.0)) == pytest.approx([8.0])


def test_dual_agent_counts_the_spend_of_clicks(market):
    agent = DualPacingAgent(warm_start=False)
    agent.reset(market.campaign(40.0, traffic=[2.0] * 4, charge="click"))
    agent.act(market.observation([1.0, 1.0], 40.0))
    agent.observe(market.outcome_info([True, True], 12.0, clicked=[True, False]))
    assert agent.dual == pytest.approx(np.expm1(0.1))


@pytest.mark.parametrize("agent_class", PACERS)
@pytest.mark.parametrize("size", [1, 20, 500])
@pytest.mark.parametrize("correlation", [0.0, 0.6])
def test_pacing_spends_the_budget_and_reaches_the_lp(market, agent_class, size, correlation):
    shares = []
    for seed in range(3 if size > 1 else 2):
        value, price, terms = market.lognormal(seed, correlation=correlation)
        best = fractional_knapsack(value, price, terms.budget)
        played = market.play(agent_class(), terms, value, price, size)
        assert 0.97 <= played.spent_share <= 1.0 + 1e-9
        shares.append((value - price)[played.won].sum() / best.net_value)
    assert min(shares) >= 0.99


@pytest.mark.parametrize("mirror", ["euclidean", "entropy"])
def test_other_mirrors_pace_too(market, mirror):
    value, price, terms = market.lognormal(0)
    best = fractional_knapsack(value, price, terms.budget)
    played = market.play(DualPacingAgent(mirror=mirror), terms, value, price, 50)
    assert played.spent_share >= 0.97
    assert (value - price)[played.won].sum() >= 0.99 * best.net_value


@pytest.mark.parametrize("agent_class", PACERS)
def test_pacing_without_history_finds_the_multiplier(market, agent_class):
    value, price, terms = market.lognormal(3)
    best = fractional_knapsack(value, price, terms.budget)
    played = market.play(agent_class(warm_start=False), terms, value, price, 10)
    assert played.spent_share >= 0.97
    assert (value - price)[played.won].sum() >= 0.985 * best.net_value


@pytest.mark.parametrize("agent_class", PACERS)
def test_pacing_bids_the_value_where_the_budget_does_not_bind(market, agent_class):
    value, price, terms = market.lognormal(0, share=3.0)
    played = market.play(agent_class(), terms, value, price, 50)
    assert np.array_equal(played.won, value >= price)


def test_pacing_follows_the_expected_traffic(market):
    # nine tenths of the traffic comes in the second half
    value, price, terms = market.lognormal(0, num=10_000)
    agent = DualPacingAgent()
    size = np.r_[np.full(10, 100), np.full(10, 900)]
    agent.reset(terms._replace(expected_traffic=size.astype(float), num_ticks=20))
    left, start = terms.budget, 0
    for tick, n in enumerate(size):
        rows = slice(start, start + n)
        bid = agent.act(market.observation(value[rows], left))
        won = bid >= price[rows]
        left -= price[rows][won].sum()
        agent.observe(market.outcome_info(won, price[rows]))
        start += n
        if tick == 9:
            assert 1.0 - left / terms.budget == pytest.approx(0.1, abs=0.02)


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: DualPacingAgent(gain=0.0), "gain"),
        (lambda: DualPacingAgent(mirror="square"), "mirror"),
        (lambda: PIDPacingAgent(proportional=-1.0), "proportional"),
        (lambda: PIDPacingAgent(derivative=float("nan")), "derivative"),
    ],
)
def test_pacing_refuses_arguments_out_of_range(make, field):
    with pytest.raises(ValueError, match=f"{field} = "):
        make()
