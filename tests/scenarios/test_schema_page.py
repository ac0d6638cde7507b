"""The reference of scenario files: every key is in it, and the committed page is up to date."""

from pathlib import Path

from command_line import adsim

from scenarios.schema import load, names
from scenarios.schema_page import Key, markdown, sections

PAGE = Path(__file__).parents[2] / "docs" / "scenarios.md"


def flat(table, prefix=""):
    """Dotted names of all values of nested tables."""
    for key, value in table.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def keys():
    return {key.name: key for section in sections() for key in section.keys}


def test_committed_page_is_what_the_command_prints():
    status, out, _ = adsim("schema", "--markdown")
    assert (status, out) == (0, markdown())
    assert PAGE.read_text() == out, "adsim schema --markdown > docs/scenarios.md"


def test_every_key_has_a_row():
    resolved = flat(load("default").model_dump())
    expected = {name.removeprefix("world.") for name in resolved}
    shocks = {name for name in keys() if name.startswith("shocks[].")}
    assert keys().keys() - shocks == expected
    assert len(shocks) == 8
    assert all(key.about and key.kind for key in keys().values())


def test_rows_by_hand():
    found = keys()
    about = "Mean CTR of a shown impression (traffic-weighted)."
    assert found["click.ctr"] == Key("click.ctr", "number", "`0.03`", "(0, 1)", about)
    assert found["campaign.margin"][1:4] == ("number", "`0.3`", "(0, 1]")
    assert found["time.num_ticks"][1:4] == ("integer", "`336`", ">= 1")
    assert found["market.exposure"][1:4] == ("list of number", "`[1]`", ">= 1 entry, (0, 1]")
    assert found["refund.curve"][3] == "5 entries, [0, 1]"
    assert found["conversion.delay"][1:3] == ("list of (number, number)", "`[12 entries]`")
    assert found["campaign.targets.cpc"][1:4] == ("number", "none", "> 0")
    assert found["market.kind"][1:3] == ("`landscape`, `population`, `replay`", '`"landscape"`')
    assert found["name"][2:4] == ("", r"`^[\w.-]+$`")
    # Defaults of a table that is used several times are those of its place.
    assert [found[f"effects.{head}.sd"].default for head in ("click", "conversion", "refund")] == [
        "`0.8`",
        "`1`",
        "`0.5`",
    ]


def test_every_scenario_is_listed_and_shown():
    text = markdown()
    for name in names():
        assert f"| [`{name}`](#scenario-{name}) | {load(name).description} |" in text
        assert f"### Scenario {name}\n\n```toml\n" in text
