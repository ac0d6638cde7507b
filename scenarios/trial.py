"""A trial: one agent on one stack of estimates in one campaign, and the file that is left of it.

The key of a trial is a hash of everything that its result depends on: the resolved world, the
agent (with its source or weights, if it is the user's), the estimates, the seeds and the code.
What has a file of that name need not be played again.
"""

import io
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache, lru_cache
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

import adsim
from scenarios.build import TRAINED
from scenarios.input_files import contents_of, digest_of
from scenarios.results import Record, Tables, columns_of, jsonable
from scenarios.rungs import STACKS, HistoryConfig, needs_warm_up
from scenarios.schema import Scenario, load
from scenarios.version import code_digest, git_commit

SIZE = HistoryConfig()  # of the warm-up
DONE, FAILED = "done", "failed"
_KEY_DIGITS = 20


class World(NamedTuple):
    """What trials that share an environment have in common."""

    scenario: str  # name or .toml file
    overrides: str  # dotted keys and values, JSON
    structure: int


class Trial(NamedTuple):
    """One campaign of a sweep, a ladder or a comparison of agents."""

    world: World
    agent: str  # as `make_agent` knows it
    estimates: str  # in `STACKS`
    seed: int  # of the episode
    axes: str = "{}"  # keys of the overrides that a sweep varies, JSON; columns of the results
    explore: float = 0.0  # share of the bids that are randomised
    raw: bool = False  # whether events and sampled auctions are kept

    @property
    def name(self) -> str:
        """In words, for progress and errors."""
        varied = [f"{key} {value}" for key, value in json.loads(self.axes).items()]
        who = [self.agent, *([] if self.estimates == "platform" else [self.estimates])]
        return ", ".join([*varied, *who, f"structure {self.world.structure}", f"seed {self.seed}"])


@lru_cache(maxsize=4)
def scenario_of(world: World) -> Scenario:
    """The scenario of a world, with its structure."""
    return load(world.scenario, {**json.loads(world.overrides), "structure_seed": world.structure})


@cache
def _world_digest(world: World) -> str:
    """Of the resolved configuration, and of the logs that are played back."""
    contents = jsonable(contents_of(scenario_of(world).world))
    return sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest()


def agent_files(agent: str) -> list[Path]:
    """The user's own files that an agent is made of; none of an agent of the registry."""
    if agent.startswith(TRAINED):
        return sorted(path for path in Path(agent.removeprefix(TRAINED)).glob("policy.*"))
    if ":" not in agent:
        return []
    origin = agent.rpartition(":")[0]
    path = Path(origin if origin.endswith(".py") else f"{origin}.py")
    if path.is_file():
        return [path]
    found = find_spec(origin)
    return [Path(found.origin)] if found and found.origin else []


def agent_sources(agent: str) -> list[Path]:
    """What decides on what a user's agent does: its files, and the modules beside them."""
    files = agent_files(agent)
    if agent.startswith(TRAINED):
        return files
    return sorted({other for file in files for other in [file, *file.parent.glob("*.py")]})


def settings_of(trial: Trial) -> dict[str, Any]:
    """Everything that a result depends on.

    Raises:
        ValueError: estimates that do not exist, or a scenario that cannot be loaded.
        FileNotFoundError: a log that is played back does not exist.
    """
    if trial.estimates not in STACKS:
        raise ValueError(f"estimates {trial.estimates!r} do not exist: one of {', '.join(STACKS)}")
    own = [digest_of(file) for file in agent_sources(trial.agent)]
    # 20 and 20.0 are the same point.
    axes = {k: float(v) if type(v) is int else v for k, v in json.loads(trial.axes).items()}
    settings: dict[str, Any] = {
        **{"world": _world_digest(trial.world), "agent": trial.agent, "agent_files": own},
        **{"estimates": trial.estimates, "seed": trial.seed, "axes": axes},
        **{"explore": trial.explore, "raw": trial.raw},
        "code": code_digest("agents", "scenarios"),
    }
    if needs_warm_up(trial.estimates):
        settings["history"] = SIZE.model_dump(mode="json")
    return settings


def key_of(trial: Trial) -> str:
    """Hash of the settings: the name of the file of results."""
    return sha256(json.dumps(settings_of(trial), sort_keys=True).encode()).hexdigest()[:_KEY_DIGITS]


def labels_of(trial: Trial) -> dict[str, Any]:
    """Columns that say which trial a row belongs to."""
    varied = {
        name: value if isinstance(value, int | float | str | bool) else json.dumps(value)
        for name, value in json.loads(trial.axes).items()
    }
    who = {"agent": trial.agent, "estimates": trial.estimates, "structure": trial.world.structure}
    # The name is the file's: the scenario need not be valid for a trial to have failed.
    name = Path(trial.world.scenario).name.removesuffix(".toml")
    labels = {"trial": key_of(trial), "scenario": name, **varied, **who, "seed": trial.seed}
    return {**labels, "explore": trial.explore}


class Training(NamedTuple):
    """Estimates of a world that have to be trained before trials bid on them."""

    world: World
    stacks: tuple[str, ...]  # that share networks

    @property
    def name(self) -> str:
        """In words."""
        return f"{', '.join(self.stacks)}, structure {self.world.structure}"


def do(cache_folder: Path, item: Trial | Training) -> bytes | None:
    """What engines do: trains, or plays and returns what `playing.play_trial` does."""
    from scenarios import playing  # loads torch, which who hands out trials has no use for

    if isinstance(item, Training):
        return playing.train(cache_folder, item)
    return playing.play_trial(cache_folder, item)


def failed_trial(trial: Trial, trace: str) -> bytes:
    """Content of the file of a trial that failed, with its traceback."""
    row = pd.DataFrame([{**about(FAILED, float("nan")), "error": trace}])
    return encode(Tables(row, *[pd.DataFrame()] * 4), labels_of(trial))


def about(status: str, seconds: float) -> dict[str, Any]:
    """How a trial ended, when, and by which code."""
    finished = datetime.now(UTC).isoformat(timespec="seconds")
    return {
        **{"status": status, "error": "", "seconds": seconds, "finished": finished},
        **{"adsim": adsim.__version__, "git": git_commit() or ""},
    }


def encode(tables: Tables, labels: Mapping[str, Any]) -> bytes:
    """One campaign's tables as an npz file: its labels, its row, the columns of other tables.

    Columns of one table and type are rows of one array: few arrays are read fast.
    """
    (row,) = tables.trials.to_dict("records")
    arrays, layout = {}, {}
    for name, columns in columns_of(tables).items():
        kinds: dict[str, list[str]] = {}
        for column, values in columns.items():
            kinds.setdefault(values.dtype.str, []).append(column)
        layout[name] = {"order": list(columns), "kinds": kinds}
        for kind, names in kinds.items():
            arrays[f"{name}/{kind}"] = np.stack([columns[column] for column in names])
    parts = {"labels": labels, "row": row, "layout": layout}
    texts = {name: np.array(json.dumps(jsonable(value))) for name, value in parts.items()}
    out = io.BytesIO()
    np.savez_compressed(out, **texts, **arrays)  # pyright: ignore[reportArgumentType]
    return out.getvalue()


def decode(arrays: Mapping[str, np.ndarray]) -> Record:
    """What `encode` made arrays of.

    Raises:
        KeyError, ValueError: made by something else.
    """
    labels, row, layout = (json.loads(str(arrays[name])) for name in ("labels", "row", "layout"))
    columns = {}
    for name, held in layout.items():
        found = {
            column: values
            for kind, names in held["kinds"].items()
            for column, values in zip(names, arrays[f"{name}/{kind}"], strict=True)
        }
        columns[name] = {column: found[column] for column in held["order"]}
    return Record(labels, row, columns)


def decode_row(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The row of `trials` alone, without labels."""
    return json.loads(str(arrays["row"]))
