import numpy as np
import pytest
from small_worlds import SMALL_WORLD

from adsim.checks import collect_windows, find_difference
from adsim.impressionlog import generate_impressions
from adsim.kernels import P_CLICK, TIME, VALUE
from adsim.rng import ID_STRIDE, Stream, uniforms
from adsim.structure import scene_shares
from scenarios.build import make_auction_env, make_world
from scenarios.schema import load

ONE = np.array([0])
POPULATION = {"market.kind": "population"}


def small(overrides=None):
    return load("default", SMALL_WORLD | (overrides or {})).world


@pytest.fixture(scope="module")
def config():
    """Of `multi_scene` with its rates and scenes, on fewer users and for one day."""
    sizes = {"entities.num_users": 2_000, "entities.num_contexts": 512, "time.num_ticks": 48}
    return load("multi_scene", sizes | {"traffic.impressions_per_tick": 1_500.0}).world


@pytest.fixture(scope="module")
def log(config):
    return generate_impressions(config, 3)


def campaign(config, seed, factor):
    """Hours, P(click), ids, won and clicked of all impressions of a campaign, in order."""
    world, ticks = make_world(config), []
    world.reset(ONE, [seed])
    for _ in range(world.num_ticks):
        drawn, real = world.drawn, slice(int(world.drawn.filled[0]))
        features = world.source.features(ONE, drawn)[0][0, real]
        outcome = world.play(factor * drawn.floats[VALUE], ONE)
        hours, p_click = drawn.floats[[TIME, P_CLICK], 0, real]
        ticks.append((hours, p_click, features, outcome.won[0, real], outcome.clicked[0, real]))
    return [np.concatenate(column) for column in zip(*ticks, strict=True)]


def test_impressions_are_ordered_whole_seconds(log):
    assert log.time.dtype == np.int64
    assert (np.diff(log.time) >= 0).all()
    assert 0 <= log.time[0] <= log.time[-1] < 86_400
    assert log.click_time is log.time
    assert log.clicked.dtype == bool
    assert log.features.shape == (log.time.size, len(log.cardinalities)) == (log.time.size, 22)
    assert (log.features >= 0).all()
    assert (log.features.max(axis=0) < log.cardinalities).all()


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"market.charge": "click", "platform_noise.ctr_sd": 0.5},
        {"market.exposure": [0.6]},
        {"randomize_structure": True},
        POPULATION | {"market.mechanism": "gsp", "market.exposure": [0.9, 0.7, 0.4]},
        POPULATION | {"market.charge": "click"},
    ],
)
def test_clicks_are_those_of_the_world(overrides):
    config = small({"campaign.budget": 1e6} | overrides)
    log = generate_impressions(config, 11)
    hours, p_click, features, won, clicked = campaign(config, 11, 1.0)
    np.testing.assert_array_equal(log.time, np.floor(hours * 3600.0))
    np.testing.assert_array_equal(log.p_click, p_click)
    np.testing.assert_array_equal(log.features, features)
    assert 20 < won.sum() < won.size  # some are shown, some are not
    assert 0 < clicked.sum() < won.sum()
    np.testing.assert_array_equal(log.clicked[won], clicked[won])
    assert log.clicked[~won].any()  # what the campaign does not show is clicked here, too


def test_a_campaign_that_shows_everything_has_all_clicks_of_the_log():
    config = small({"campaign.budget": 1e9, "campaign.max_bid": 1e6})
    _, _, _, won, clicked = campaign(config, 5, 1e4)
    assert won.all()
    np.testing.assert_array_equal(generate_impressions(config, 5).clicked, clicked)


def test_clicks_are_those_of_the_environment():
    env = make_auction_env("default", SMALL_WORLD).unwrapped
    windows = collect_windows(env, seed=2)
    log = generate_impressions(env.world.config, int(env.world.seeds[0]))
    shown = [int(impressions.mask.sum()) for impressions, _ in windows]
    first = np.concatenate([[0], np.cumsum(shown)])
    won = np.concatenate([window.impressions.impression_id for _, window in windows])
    clicked = np.concatenate([window.result.clicked for _, window in windows])
    assert (first[-1], clicked.sum() > 10) == (log.time.size, True)
    np.testing.assert_array_equal(log.clicked[first[won // ID_STRIDE] + won % ID_STRIDE], clicked)


def test_a_click_is_the_first_uniform_of_its_impression_below_the_truth():
    config = small()
    log, first = generate_impressions(config, 9), generate_impressions(config, 9, num_ticks=1)
    ids = np.arange(first.time.size)
    np.testing.assert_array_equal(
        first.clicked, uniforms(9, Stream.OUTCOME, ids, 0)[:, 0] < first.p_click
    )
    second = generate_impressions(config, 9, num_ticks=2).time.size - ids.size
    hit = uniforms(9, Stream.OUTCOME, ID_STRIDE + np.arange(second), 0)[:, 0]
    rows = slice(ids.size, ids.size + second)
    np.testing.assert_array_equal(log.clicked[rows], hit < log.p_click[rows])


def test_the_mean_rate_is_the_configured_one(config, log):
    # Calibrated on 20,000 draws of logits with a standard deviation of 1.3: a few per cent.
    assert log.p_click.mean() == pytest.approx(config.click.ctr, rel=0.08)


def test_the_truth_is_calibrated(log):
    # Sums of independent indicators with known probabilities: within 4 standard deviations,
    # in every quarter by the truth and in every scene.
    quarter = np.searchsorted(np.quantile(log.p_click, [0.25, 0.5, 0.75]), log.p_click)
    for groups in (quarter, log.features[:, 14]):
        error = np.bincount(groups, log.clicked - log.p_click)
        variance = np.bincount(groups, log.p_click * (1 - log.p_click))
        assert (np.abs(error) < 4 * np.sqrt(variance)).all()


def test_scenes_have_their_shares_of_the_traffic(config, log):
    share, n = scene_shares(config.entities), log.time.size
    found = np.bincount(log.features[:, 14], minlength=16)
    assert (np.abs(found - n * share) < 4 * np.sqrt(n * share * (1 - share))).all()
    assert log.cardinalities[14] == 16
    assert 0 < found[13:].max() < 0.2 * found[12]  # the three cold ones


def test_a_log_is_a_function_of_its_seed_and_can_stop_early(config, log):
    assert find_difference(generate_impressions(config, 3), log) is None
    part = generate_impressions(config, 3, num_ticks=10)
    size = part.time.size
    assert 0 < size < log.time.size
    for name in ("time", "clicked", "features", "p_click"):
        np.testing.assert_array_equal(getattr(part, name), getattr(log, name)[:size])
    assert part.cardinalities == log.cardinalities
    other = generate_impressions(config, 4, num_ticks=10)
    assert not np.array_equal(other.clicked[:5_000], log.clicked[:5_000])


def test_a_log_may_be_empty():
    log = generate_impressions(small({"traffic.impressions_per_tick": 1e-6}), 0)
    assert log.features.shape == (0, 22)
    assert (log.time.dtype, log.clicked.dtype, log.features.dtype) == (np.int64, bool, np.int32)
    assert log.clicked.shape == log.p_click.shape == log.time.shape == (0,)


@pytest.mark.parametrize("num_ticks", [0, -1, 9])
def test_a_number_of_ticks_outside_the_horizon_raises(num_ticks):
    with pytest.raises(ValueError, match=rf"num_ticks: must be in 1 \.\. 8, got {num_ticks}"):
        generate_impressions(small(), 0, num_ticks=num_ticks)
