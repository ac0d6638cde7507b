from pathlib import Path

import pytest

from scenarios.replay import ReplayRow, hindsight_row, play_log, replay_config

DATA = Path(__file__).parents[2].parent / "shared" / "data" / "ipinyou"
needs_log = pytest.mark.skipif(
    not (DATA / "2997.test.theta.txt.gz").exists(), reason="no iPinYou data beside the checkout"
)


@needs_log
@pytest.mark.slow
@pytest.mark.parametrize(
    "row",
    [  # published with Cai et al. 2017 (RLB): campaign 2997, N = 1000, c0 = 1/32
        ReplayRow("mcpc", 156_063, 14_752, 48, 307_751),
        ReplayRow("linear", 156_063, 32_208, 71, 203_610),
        ReplayRow("ss_mdp", 156_063, 40_395, 80, 306_637),
        ReplayRow("rlb", 156_063, 39_680, 78, 304_375),
    ],
    ids=lambda row: row.agent,
)
def test_published_rows_are_reproduced_exactly(row):
    assert play_log(replay_config(DATA, "2997"), row.agent) == row


@needs_log
def test_protocol_of_campaign_2997():
    config = replay_config(DATA, "2997")
    assert config.campaign.budget == 1969
    assert (config.time.num_ticks, config.campaign.max_bid) == (1000, 300)
    # 530 clicks in the log; buying only those costs 45,720: the budget does not bind.
    assert hindsight_row(config) == ReplayRow("bound", 156_063, 530, 530, 45_720)


def test_small_log_by_hand(tmp_path):
    (tmp_path / "7.test.theta.txt").write_text("0 10 0.1\n1 20 0.2\n1 30 0.3\n0 5 0.1\n1 40 0.4\n")
    counts = [0] * 301
    for price in (10, 20, 30, 40):
        counts[price] = 25
    (tmp_path / "7.info.json").write_text(
        '{"imp_train": 100, "cost_train": 2500, "clk_train": 10, "price_counter_train": '
        f"{counts}}}"
    )
    # 2 auctions an episode, budget int(2500 / 100 * 1 * 2) = 50; average price per click 250.
    config = replay_config(tmp_path, "7", auctions=2, c0=1.0)
    assert config.campaign.budget == 50
    # mcpc bids int(theta * 250) = 25, 50 | 75 -> 50, 25 | 100 -> 50: wins 10 and 20; 30, not 5
    # (20 left, 5 <= 20: won); 40.
    assert play_log(config, "mcpc") == ReplayRow("mcpc", 5, 5, 3, 105)
    # Clicks at 20, 30 and 40 fit every episode's budget.
    assert hindsight_row(config) == ReplayRow("bound", 5, 3, 3, 90)
