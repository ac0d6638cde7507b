"""Sweep files of tiny worlds, and the tables that they end with."""

import json

import pandas as pd
from small_worlds import SMALL_WORLD

VARYING = ["seconds", "finished", "predict_ms_per_tick", "learn_seconds_per_hour"]
"""Columns that differ from run to run."""

SLOW_AGENT = """
import time
from agents import AGENTS


class Slow(AGENTS["dual"]):
    def reset(self, campaign, *, seed=None):
        time.sleep({seconds})
        super().reset(campaign, seed=seed)
"""


def sweep_file(folder, text, name="sweep"):
    """Writes a sweep of the world of small tests, but for what the text says of it."""
    keys = {**SMALL_WORLD, "time.num_ticks": 4}
    kept = {key: value for key, value in keys.items() if key not in text}
    lines = "".join(f"{key} = {json.dumps(value)}\n" for key, value in kept.items())
    file = folder / f"{name}.toml"
    file.write_text(f"{text}\n[overrides]\n{lines}")
    return file


def table_of(folder):
    """The results of a folder but for times."""
    return pd.read_parquet(folder).drop(columns=VARYING)
