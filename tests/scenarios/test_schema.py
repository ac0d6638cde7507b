import json

import pytest

from scenarios.schema import ScenarioError, json_schema, load, names


def write(tmp_path, text):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return path


def test_every_scenario_of_the_package_is_valid():
    wanted = {
        *("default", "heavy_refund", "long_delay", "repurchase", "multi_scene", "noisy", "drift"),
        *("population", "first_price", "auctionnet"),
    }
    assert wanted <= set(names())
    for name in names():
        assert load(name).description


def test_auctionnet_has_the_published_sizes():
    world = load("auctionnet").world
    assert world.market.population.n_advertisers == 48
    assert world.market.population.categories == 6
    assert world.market.exposure == (1.0, 0.8, 0.6)
    assert world.market.population.budget_range == (2000, 4850)
    assert world.market.population.cpa_range == (60, 130)
    total = world.time.num_ticks * world.traffic.impressions_per_tick
    assert (world.time.num_ticks, round(total, -3)) == (48, 500_000)


def test_overrides_reach_the_world_and_the_scenario():
    scenario = load("default", {"market.reserve": "0.25", "seeds": 3, "agents": '["value"]'})
    assert scenario.world.market.reserve == 0.25
    assert scenario.seeds == 3
    assert scenario.agents == ("value",)


def test_a_file_gets_its_name_and_keeps_the_defaults(tmp_path):
    scenario = load(write(tmp_path, "[world.time]\nnum_ticks = 5\n"))
    assert scenario.name == "mine"
    assert scenario.world.time.num_ticks == 5
    assert scenario.world.time.tick_hours == 0.5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[world.time]\nticks = 5\n", r"mine\.toml: world\.time\.ticks: unknown key"),
        ("[world.time]\nnum_ticks = 0\n", r"world\.time\.num_ticks: .*greater than or equal to 1"),
        ('[world.click]\nctr = "high"\n', r"world\.click\.ctr: .*valid number"),
        ("[world.click]\nctr = 1.5\n", r"world\.click\.ctr: .*less than 1 \(got 1\.5\)"),
        ("[world.click]\nctr = nan\n", r"world\.click\.ctr"),
        ("[world.market]\nmechanism = 'dutch'\n", r"mechanism: .*'first_price', 'second_price'"),
        ("[world\n", r"not valid TOML"),
        ("agents = []\n", r"agents: .*at least 1"),
    ],
)
def test_bad_file_names_file_key_and_range(tmp_path, text, message):
    with pytest.raises(ScenarioError, match=message):
        load(write(tmp_path, text))


def test_missing_scenario_names_what_exists(tmp_path):
    with pytest.raises(ScenarioError, match=r"'nothing' does not exist: .*default"):
        load("nothing")
    with pytest.raises(ScenarioError, match="cannot be read"):
        load(tmp_path / "missing.toml")


def test_unknown_override_is_an_error():
    with pytest.raises(ScenarioError, match=r"world\.market\.reserves: unknown key"):
        load("default", {"market.reserves": "1"})
    with pytest.raises(ScenarioError, match="reserve is not a table"):
        load("default", {"market.reserve": 1.0, "market.reserve.deep": 2})


def test_json_schema_describes_units():
    schema = json.loads(json_schema())
    ctr = schema["$defs"]["ClickConfig"]["properties"]["ctr"]
    assert ctr["exclusiveMaximum"] == 1
    assert "CTR" in ctr["description"]
