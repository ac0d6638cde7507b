"""The page of a report in headless Chromium: it shows the numbers that Python gives."""

import base64

import pytest
import small_results
from browser import chromium, console_of, emulate, requests_of, resize

from scenarios.report_command import report_command

NARROW = 360  # pixels, of a narrow screen
CONTRAST = """
const channel = (c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
const rgb = (name) => {
  const probe = document.createElement("span");
  probe.style.color = `var(--${name})`; document.body.append(probe);
  const found = getComputedStyle(probe).color.match(/[0-9.]+/g).map(Number); probe.remove();
  return 0.2126 * channel(found[0]) + 0.7152 * channel(found[1]) + 0.0722 * channel(found[2]);
};
const ratio = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
return ["ink", "soft", "accent", "bad"].flatMap(
  (text) => ["paper", "card", "head"].map((ground) => ratio(rgb(text), rgb(ground))));
"""  # of all colours of text on all grounds, WCAG 2.2, section 1.4.3


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    parts = small_results.campaigns(estimates=("platform", "oracle"))
    return report_command(small_results.save(tmp_path_factory.mktemp("results"), parts))


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile")) as made:
        yield made


@pytest.fixture
def opened(browser, page):
    resize(browser, 0)
    emulate(browser)
    browser.get("about:blank")
    console_of(browser), requests_of(browser)
    browser.get(page.as_uri())
    return browser


def run(browser, script, *arguments):
    return browser.execute_script(script, *arguments)


def choose(browser, select, label):
    """Takes an option of a list as a user does."""
    script = """const [id, label] = arguments, list = document.getElementById(id);
    list.value = [...list.options].find((option) => option.text === label).value;
    list.dispatchEvent(new Event("change"));"""
    run(browser, script, select, label)


def rows_of(browser):
    """First cells of the rows of the table that are shown."""
    script = """const words = (row) => [...row.cells].slice(0, 4).map((cell) => cell.textContent);
    return [...document.querySelectorAll("#board tbody tr:not([hidden])")].map(words);"""
    return run(browser, script)


def read_out(browser, figure, count):
    """What a figure says of its first values, as arrow keys read it."""
    script = """const svg = document.querySelector(`#figure-${arguments[0]} svg[role=img]`);
    return [...Array(arguments[1])].map(() => {
      svg.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight" }));
      return document.getElementById("tip").innerText.replace("\\n", " | ");
    });"""
    return run(browser, script, figure, count)


def test_the_page_opens_without_errors_and_without_a_network(opened):
    assert console_of(opened) == []
    assert requests_of(opened) == []


def test_every_figure_is_drawn(opened, page):
    script = """return [...document.querySelectorAll("figure")].map((figure) => {
      const svg = figure.querySelector("svg[role=img]"), area = svg.getBoundingClientRect();
      const marks = svg.querySelectorAll("g[data-series] > *").length;
      return [figure.id, area.width > 200 && area.height > 100, marks,
        svg.getAttribute("aria-label").length > 20, figure.querySelector("a").getAttribute("href")];
    });"""
    figures = run(opened, script)
    pictures = {path.stem for path in page.parent.glob("*.png")}
    assert {f"figure-{name}" for name in pictures} == {figure[0] for figure in figures}
    assert {"ladder", "pacing", "calibration_cvr", "prices", "leaderboard"} <= pictures
    for name, has_size, marks, named, link in figures:
        assert has_size, name
        assert marks > 0, name
        assert named, name
        assert (page.parent / link).is_file()


def test_a_filter_changes_the_table_and_the_figures_to_the_numbers_of_python(opened):
    # Budget 20, agent b: 205 to 207 by platform, 100 more by oracle, +- t(2) / sqrt(3) = 2.484.
    assert len(rows_of(opened)) == 8
    choose(opened, "filter-0", "20")
    choose(opened, "filter-1", "b")
    assert rows_of(opened) == [
        ["20", "b", "oracle", "306 ± 2"],
        ["20", "b", "platform", "206 ± 2"],
    ]
    assert read_out(opened, "leaderboard", 2) == [
        "expected | budget 20 · b, oracle: 306 [303.5, 308.5]",
        "expected | budget 20 · b, platform: 206 [203.5, 208.5]",
    ]
    assert read_out(opened, "ladder_steps", 1) == ["b | oracle: 100 [100, 100]"]
    assert opened.find_element("id", "shown").text == "2 of 8 rows"


def test_the_metric_changes_what_is_drawn_over_the_axes(opened):
    figure = "map_spend_campaign_budget"
    assert not opened.find_elements("id", f"figure-{figure}")
    choose(opened, "metric", "spend")
    assert opened.find_elements("id", f"figure-{figure}")
    assert read_out(opened, figure, 2) == [
        "a, platform | 10: 10 [10, 10]",
        "a, platform | 20: 20 [20, 20]",
    ]


def test_a_click_on_the_legend_hides_a_series(opened):
    script = """const figure = document.getElementById("figure-net_value");
    figure.querySelectorAll(".legend button")[arguments[0]].click();
    return [...figure.querySelectorAll("g[data-series]")].map((group) => group.dataset.series);"""
    assert run(opened, script, 1) == ["finally realised", "matured"]
    assert run(opened, script, 1) == ["finally realised", "seen so far (cash)", "matured"]


def test_the_pointer_shows_the_nearest_value(opened):
    script = """const svg = document.querySelector("#figure-prices svg[role=img]");
    const bar = svg.querySelector("g[data-series] rect").getBoundingClientRect();
    const at = { clientX: bar.x + bar.width / 2, clientY: bar.y };
    svg.dispatchEvent(new PointerEvent("pointermove", at));
    return document.getElementById("tip").innerText;"""
    assert run(opened, script).startswith("price to beat, won (75 %)\n1 to 1.259: 75")


def test_headings_sort_the_table(opened):
    script = """document.querySelectorAll("#board th button")[arguments[0]].click();"""
    run(opened, script, 3)
    first = rows_of(opened)[0]
    assert first[:3] == ["10", "a", "platform"]  # the least expected net value
    run(opened, script, 0)
    assert rows_of(opened)[0][0] == "20"
    assert run(opened, "return document.querySelector('#board th').ariaSort") == "descending"


def test_dark_and_light_follow_the_system_and_the_button(opened):
    ground = "return getComputedStyle(document.body).backgroundColor"
    assert run(opened, ground) == "rgb(255, 255, 255)"
    emulate(opened, prefers_color_scheme="dark")
    dark = run(opened, ground)
    assert dark == "rgb(20, 24, 29)"
    assert min(run(opened, CONTRAST)) >= 4.5
    run(opened, "document.getElementById('theme').click()")
    assert run(opened, ground) == "rgb(255, 255, 255)"
    assert min(run(opened, CONTRAST)) >= 4.5


def test_on_paper_there_are_no_controls_and_no_figure_is_cut(opened):
    run(opened, "document.documentElement.dataset.theme = 'dark'")
    emulate(opened, media="print")
    resize(opened, 680)
    script = """const hidden = [...document.querySelectorAll(".control, .png, #tip")];
    const figures = [...document.querySelectorAll("figure")];
    const end = (figure) => figure.querySelector("svg").getBoundingClientRect().right;
    return [hidden.every((part) => getComputedStyle(part).display === "none"),
      getComputedStyle(document.body).backgroundColor,
      figures.every((figure) => getComputedStyle(figure).breakInside === "avoid"),
      figures.every((figure) => end(figure) <= innerWidth)];"""
    assert run(opened, script) == [True, "rgb(255, 255, 255)", True, True]
    printed = opened.execute_cdp_cmd("Page.printToPDF", {})["data"]
    assert base64.b64decode(printed).startswith(b"%PDF")


def test_a_narrow_screen_scrolls_in_one_direction(opened):
    resize(opened, NARROW)
    script = "const root = document.documentElement; return root.scrollWidth <= root.clientWidth"
    assert run(opened, script)


def test_a_report_that_cannot_hold_all_combinations_resets_the_other_filters(
    browser, tmp_path, monkeypatch
):
    monkeypatch.setattr("scenarios.views.MOST_VIEWS", 4)
    browser.get(report_command(small_results.save(tmp_path)).as_uri())
    assert "one filter at a time" in browser.find_element("id", "filters").text
    choose(browser, "filter-0", "20")
    choose(browser, "filter-1", "b")
    assert run(browser, "return document.getElementById('filter-0').value") == "-1"
    assert [row[:2] for row in rows_of(browser)] == [["20", "b"], ["10", "b"]]


# Seconds long: 500 trials are written, read and arranged.
def test_a_report_of_500_trials_opens_in_two_seconds_and_is_small(browser, tmp_path):
    parts = small_results.campaigns(budgets=range(1, 26), seeds=range(10))
    page = report_command(small_results.save(tmp_path, parts))
    browser.get(page.as_uri())
    assert int(run(browser, "return document.documentElement.dataset.drawn")) < 2_000  # ms
    assert page.stat().st_size < 8e6
