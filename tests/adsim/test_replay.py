"""A log of five auctions played back, by hand."""

import json

import numpy as np
import pytest

from adsim.checks import CheckError, check_no_leak, find_difference
from adsim.kernels import PRICE
from scenarios.build import make_auction_env, make_auction_vector_env, make_pacing_env

LOG = "1 10 0.5\n0 20 0.1\n1 5 0.2\n0 7 0.4\n1 30 0.3\n"
PRICES = [10.0, 20.0, 5.0, 7.0, 30.0]
THETAS = [0.5, 0.1, 0.2, 0.4, 0.3]


@pytest.fixture
def replay(tmp_path):
    """Makes replay environments of the five auctions; a click is worth 40 at a margin of .5."""
    (tmp_path / "log.txt").write_text(LOG)

    def make(maker=make_auction_env, **overrides):
        usual = {
            "time.num_ticks": 5,
            "time.tick_hours": 1.0,
            "campaign.budget": 20.0,
            "campaign.max_bid": 300.0,
            "campaign.margin": 0.5,
            "market.kind": "replay",
            "market.replay.log": str(tmp_path / "log.txt"),
            "market.replay.click_value": 40.0,
        }
        return maker(overrides=usual | overrides)

    make.folder = tmp_path
    return make


def play(env, bid, options=None):
    """Constant bids; the steps of the episode."""
    obs, _ = env.reset(options=options)
    steps, over = [], False
    while not over:
        steps.append((obs, *env.step(np.full(env.action_space.shape, float(bid)))))
        obs, over = steps[-1][1], steps[-1][3]
    return steps


@pytest.mark.parametrize("per_tick", [1, 2, 5])
def test_replay_by_hand(replay, per_tick):
    # Bids of 15 and 20 to spend: wins 10 (click), 10 is left; loses 20; wins 5 (click), 5 is
    # left and caps the bids; loses 7 and 30.
    env = replay(**{"market.replay.auctions_per_tick": per_tick})
    steps = play(env, 15)
    results = [step[-1]["result"] for step in steps]
    won = np.concatenate([result.won for result in results])
    clicked = np.concatenate([result.clicked for result in results])
    price = np.concatenate([result.price for result in results])
    assert won[:5].tolist() == clicked[:5].tolist() == [True, False, True, False, False]
    assert not won[5:].any()
    assert price[:5].tolist() == [10.0, np.inf, 5.0, np.inf, np.inf]
    closing = env.statement()
    assert (closing.impressions, closing.wins, closing.clicks) == (5, 2, 2)
    assert (closing.purchases, closing.refunds) == (2, 0)
    assert (closing.spend, closing.gmv, closing.net_value) == (15.0, 80.0, 25.0)  # .5 x 80 - 15
    assert (closing.expected_gmv, closing.expected_net_value) == (80.0, 25.0)
    assert steps[0][2] == {1: 10.0, 2: 10.0, 5: 25.0}[per_tick]


def test_observation_shows_the_log(replay):
    env = replay(**{"market.replay.auctions_per_tick": 2})
    steps = play(env, 0)
    shown = [obs["pctr"][obs["mask"] > 0].tolist() for obs, *_ in steps]
    assert shown == [THETAS[0:2], THETAS[2:4], THETAS[4:], [], []]
    first = steps[0][0]
    assert first["time_hours"].tolist() == [0.25, 0.75]
    assert first["list_price"].tolist() == [40.0, 40.0]
    assert first["pcvr"].tolist() == [1.0, 1.0]
    assert steps[2][0]["list_price"].tolist() == [40.0, 0.0]
    assert env.observation_space.contains(first)
    assert env.observation_space["features"].shape == (2, 1)


@pytest.mark.parametrize(("bid", "wins", "spend"), [(9, 2, 14.0), (5, 1, 5.0), (4, 0, 0.0)])
def test_first_price_pays_the_bid(replay, bid, wins, spend):
    # Bids of 9: wins 5 at 9, then 7 at 9 with 2 left. 5: a bid equal to the price wins.
    env = replay(**{"market.mechanism": "first_price"})
    play(env, bid)
    closing = env.statement()
    assert closing.wins == wins
    assert closing.spend == wins * bid
    second = replay()
    play(second, bid)
    assert second.statement().spend == {9: 12.0, 5: 5.0, 4: 0.0}[bid]


def test_reveal_all_shows_lost_prices(replay):
    steps = play(replay(**{"market.reveal": "all"}), 0)
    assert [step[-1]["result"].price[0] for step in steps] == PRICES


def test_episodes_start_where_they_are_told(replay):
    env = replay(**{"time.num_ticks": 2, "campaign.budget": 1000.0})
    env.reset(seed=0)
    seen = []
    for first in (0, 2, 4):
        steps = play(env, 300, options={"first_auction": first})
        seen += [step[-1]["result"].price[0] for step in steps]
        assert len(steps) == 2
    assert seen == [*PRICES, np.inf]  # the last episode has one auction only
    closing = env.statement()
    assert (closing.impressions, closing.wins, closing.spend) == (1, 1, 30.0)
    again = play(env, 300)  # the start stays until another one is chosen
    assert again[0][-1]["result"].price[0] == 30.0
    configured = replay(**{"market.replay.first_auction": 3})
    assert play(configured, 300)[0][0]["pctr"].tolist() == [0.4]


def test_seed_does_not_matter(replay):
    env = replay()
    runs = []
    for seed in (0, 1):
        env.reset(seed=seed)
        runs.append(play(env, 15))
    assert find_difference(*runs) is None


def test_batched_replays_start_at_rows_of_their_own(replay):
    vector = replay(lambda **k: make_auction_vector_env(3, autoreset_mode="Disabled", **k))
    vector.reset(seed=0, options={"first_auction": 1})
    mask = np.array([False, True, False])
    vector.reset(options={"first_auction": 4, "reset_mask": mask})
    assert vector.world.drawn.floats[PRICE, :, 0].tolist() == [20.0, 30.0, 20.0]


def test_state_keeps_the_first_auction(replay, tmp_path):
    env, other = replay(), replay()
    env.reset(seed=0, options={"first_auction": 1})
    env.step(np.array([6.0]))
    env.save(tmp_path / "state.npz")
    other.load(tmp_path / "state.npz")
    ends = [[e.step(np.array([6.0])) for _ in range(4)] for e in (env, other)]
    assert find_difference(*ends) is None
    assert ends[0][0][-1]["result"].price[0] == 5.0
    assert find_difference(*(e.reset() for e in (env, other))) is None


@pytest.mark.parametrize("maker", [make_auction_env, make_pacing_env])
@pytest.mark.parametrize("per_tick", [1, 2])
def test_rows_ahead_are_unreachable(replay, maker, per_tick):
    check_no_leak(lambda: replay(maker, **{"market.replay.auctions_per_tick": per_tick}))


class Peeking:
    """Shows the last row of the log from the first tick on."""

    def __init__(self, env, column):
        self.env, self.unwrapped, self.column = env, env, column
        self.reset = env.reset

    def step(self, action):
        *step, info = self.env.step(action)
        ahead = getattr(self.env.world.source.log, self.column)[-1]
        return *step, info | {"ahead": ahead}


@pytest.mark.parametrize("column", ["price", "click", "theta"])
def test_leak_of_a_row_ahead_is_found(replay, column):
    with pytest.raises(CheckError, match="ahead"):
        check_no_leak(lambda: Peeking(replay(), column), ticks=3)


def test_hindsight_knows_the_clicks(replay):
    # Values are .5 x 40 = 20 for the clicked auctions: profits 10 at price 10, 15 at 5; 30 is too
    # dear. Both fit into the budget of 20.
    env = replay()
    env.reset(seed=0)
    bound = env.oracle().hindsight()
    assert (bound.net_value, bound.spend, bound.multiplier) == (25.0, 15.0, 0.0)
    assert env.oracle().price_to_beat().tolist() == [10.0]


def test_training_log_is_the_price_history(replay):
    counts = [0] * 301
    counts[10], counts[20] = 3, 1
    info = {"imp_train": 4, "cost_train": 50, "clk_train": 2, "price_counter_train": counts}
    path = replay.folder / "x.info.json"
    path.write_text(json.dumps(info))
    history = replay(**{"market.replay.info": str(path)}).campaign.price_history
    assert history.price[[10, 20]].tolist() == [10.0, 20.0]
    assert history.weight[[10, 20]].tolist() == [3.0, 1.0]
    assert (history.ctr, history.cpc) == (0.5, 25.0)
    assert np.isnan(history.value).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"first_auction": 5}, r"options\['first_auction'\] must be in \[0, 4\], got 5"),
        ({"first_auction": -1}, r"options\['first_auction'\] must be in \[0, 4\], got -1"),
        ({"first": 1}, r"options: unknown \['first'\]; a replay knows first_auction"),
    ],
)
def test_wrong_options_are_named(replay, options, message):
    with pytest.raises(ValueError, match=message):
        replay().reset(options=options)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"market.replay.first_auction": 5}, r"market.replay.first_auction must be in \[0, 4\]"),
        ({"market.exposure": [1.0, 0.5]}, "exposure must have one slot"),
        ({"market.mechanism": "vcg"}, "mechanism must not be vcg"),
        ({"market.replay.log": ""}, "replay.log must name an auction log"),
    ],
)
def test_wrong_configurations_are_named(replay, overrides, message):
    with pytest.raises(ValueError, match=message):
        replay(**overrides)


def test_wrong_logs_are_named(replay):
    with pytest.raises(FileNotFoundError, match=r"none\.txt"):
        replay(**{"market.replay.log": str(replay.folder / "none.txt")})
    (replay.folder / "bad.txt").write_text("1 10 0.5\n1 x 0.5\n")
    with pytest.raises(ValueError, match=r"bad\.txt:2"):
        replay(**{"market.replay.log": str(replay.folder / "bad.txt")})
