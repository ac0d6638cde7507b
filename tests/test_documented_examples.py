"""The examples of the pages for beginners run and print what the pages say."""

import re

import gymnasium as gym
import numpy as np
import pytest
from command_line import adsim
from documentation import ROOT, run_examples
from pages import section, text_blocks

DOCS = ROOT / "docs"
FAQ = DOCS / "faq.md"


@pytest.fixture(autouse=True)
def _folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


def test_first_loop_prints_what_the_page_says(capsys):
    page = DOCS / "getting_started.md"
    space, printed, _ = run_examples(page, capsys)
    assert printed == text_blocks(page.read_text())
    assert space["total"] == pytest.approx(space["end"].net_value)


def test_answers_with_code_hold(capsys):
    _, printed, _ = run_examples(FAQ, capsys)
    assert printed == [["True True"], [], ["True (2,)"]]


def test_formats_are_read_and_used(capsys):
    space, printed, _ = run_examples(DOCS / "data_formats.md", capsys)
    clicks, all_clicks = (int(word) for word in re.findall(r"\d+", printed[1][0]))
    assert 0 < clicks < all_clicks == space["clicked"].sum()
    # Afternoons have twice the traffic of mornings: Poisson counts of 26,667 and 13,333.
    assert printed[2][0].split()[-1] == "2.0"


def message_of(mistake):
    """What an environment in its first tick says to a mistake."""
    env = gym.make("adsim/Auction-v0", disable_env_checker=True)
    env.reset(seed=0)
    with pytest.raises((ValueError, RuntimeError)) as error:
        mistake(env)
    return str(error.value)


MISTAKES = [
    ("run", "defalt"),
    ("show", "--set", "market.reserves=1"),
    ("show", "--set", "click.ctr=2"),
    ("run", "-a", "dual", "--set", "traffic.slots_per_tick=64"),
    ("run", "-a", "rlb"),
    ("show", "--set", "market.mechanism=vcg"),
    ("run", "--set", "randomize_structure=true"),
    ("run", "-a", "file.py:Class"),
]


def test_messages_are_those_that_users_see():
    seen = []
    for words in MISTAKES:
        status, _, err = adsim(*words)
        assert status == 2
        seen.append(" ".join(err.split()))
    seen.append(message_of(lambda env: env.step(np.full(env.action_space.shape, -1.0))))
    seen.append(message_of(lambda env: env.unwrapped.statement()))
    told = re.findall(r"^\| `(.+?)` \|", section(FAQ.read_text(), "Messages"), re.MULTILINE)
    assert [message for message in told if not any(message in text for text in seen)] == []
    assert len(told) == len(seen)
