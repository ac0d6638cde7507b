"""The rendered picture of a campaign."""

import subprocess
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure

from adsim import rendering
from adsim.config import CampaignConfig, TimeConfig, TrafficConfig, WorldConfig
from adsim.kernels import VALUE
from adsim.ledger import COLUMN, COLUMNS
from adsim.world import World

WORLDS = np.arange(1)
BLUE = np.array([0, 114, 178])  # the colour of what has happened so far


@pytest.fixture
def world():
    config = WorldConfig(
        time=TimeConfig(num_ticks=8, tick_hours=3.0),
        traffic=TrafficConfig(impressions_per_tick=40.0),
        campaign=CampaignConfig(budget=20.0),
    )
    world = World(config)
    world.reset(WORLDS, [5])
    return world


def blue_pixels(picture):
    return int((np.abs(picture.astype(int) - BLUE).max(axis=2) < 30).sum())


def play(world, num_ticks):
    for _ in range(num_ticks):
        world.play(world.drawn.floats[VALUE] * 2.0, WORLDS)


def books_of(**columns):
    books = np.zeros((len(next(iter(columns.values()))), len(COLUMNS)))
    for name, values in columns.items():
        books[:, COLUMN[name]] = values
    return books


@pytest.fixture
def ax():
    return Figure().add_subplot()


@pytest.mark.parametrize("played", [0, 1, 5, 8])
def test_draw_campaign_returns_rgb_of_fixed_size_at_any_tick(world, played):
    play(world, played)
    picture = rendering.draw_campaign(world)
    assert picture.shape == (300, 900, 3)
    assert picture.dtype == np.uint8
    assert (picture == 255).mean() > 0.5  # a white page, not a black one


def test_draw_campaign_changes_with_every_tick_and_leaves_the_world_alone(world):
    play(world, 3)
    before = world.get_state()
    first = rendering.draw_campaign(world)
    assert np.array_equal(first, rendering.draw_campaign(world))
    after = world.get_state()
    assert all(np.array_equal(before[name], after[name]) for name in before)
    play(world, 3)
    assert blue_pixels(rendering.draw_campaign(world)) > blue_pixels(first)


def test_draw_campaign_of_a_campaign_that_never_wins(world):
    for _ in range(8):
        world.play(np.zeros_like(world.drawn.floats[VALUE]), WORLDS)
    assert rendering.draw_campaign(world).shape == (300, 900, 3)


def test_draw_campaign_refuses_several_worlds():
    world = World(WorldConfig(time=TimeConfig(num_ticks=2)), num_worlds=2)
    with pytest.raises(ValueError, match=r"world\.num_worlds must be 1, got 2"):
        rendering.draw_campaign(world)


def test_draw_spend_plans_the_budget_in_proportion_to_traffic(ax):
    traffic = np.array([1.0, 3.0, 4.0])  # of a budget of 16: 2, 6 and 8
    rendering._draw_spend(ax, np.arange(4.0), books_of(spend=[1.0, 2.0]), 16.0, traffic)
    plan, spend = ax.get_lines()
    assert plan.get_ydata() == pytest.approx([0.0, 2.0, 8.0, 16.0])
    assert spend.get_xdata() == pytest.approx([0.0, 1.0, 2.0])
    assert spend.get_ydata() == pytest.approx([0.0, 1.0, 3.0])


def test_draw_net_value_is_margin_times_net_gmv_less_spend(ax):
    books = books_of(
        spend=[1.0, 2.0], gmv=[20.0, 30.0], refunded=[0.0, 10.0], matured_net_gmv=[0.0, 10.0]
    )
    rendering._draw_net_value(ax, np.arange(4.0), books, 0.3)
    _, seen, matured = ax.get_lines()
    assert seen.get_ydata() == pytest.approx([0.0, 5.0, 9.0])  # .3 x 20 - 1, .3 x 40 - 3
    assert matured.get_ydata() == pytest.approx([0.0, -1.0, 0.0])  # -1, .3 x 10 - 3


@pytest.mark.parametrize(
    ("charge", "expected"), [("impression", [0.5, np.nan, 0.25]), ("click", [2.0, np.nan, np.nan])]
)
def test_draw_prices_divides_spend_by_what_is_charged(ax, charge, expected):
    books = books_of(spend=[2.0, 0.0, 1.0], wins=[4.0, 0.0, 4.0], clicks=[1.0, 0.0, 0.0])
    rendering._draw_prices(ax, np.arange(5.0), books, charge)
    (line,) = ax.get_lines()
    assert line.get_xdata() == pytest.approx([1.0, 2.0, 3.0])
    assert line.get_ydata() == pytest.approx(expected, nan_ok=True)


def test_rendering_loads_matplotlib_only_to_draw():
    code = "import sys, adsim.rendering; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_draw_campaign_does_not_touch_pyplot():
    code = "; ".join(
        [
            "import sys, numpy as np",
            "from adsim.config import WorldConfig",
            "from adsim.world import World",
            "from adsim.rendering import draw_campaign",
            "w = World(WorldConfig())",
            "w.reset(np.arange(1), [0])",
            "draw_campaign(w)",
            "print('matplotlib.pyplot' in sys.modules)",
        ]
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
