"""A comparison of NetCVR predictors on a stream of delayed feedback: its methods and its worlds.

A method is run in a world: a click log (of a scenario and a seed, or read from a file) and a set-up
that says how all methods are configured.

fair: every method has the embeddings, the checkpoint and the trainable parts of TESLA (but for
    variants named after other embeddings), and its own learning rate, tuned on other worlds.
published: every method has the configuration that the code published with TESLA gives it, its
    departures from the methods' papers included (`official_quirks`), but for sizes, the rate of the
    pre-training, and learning rates that do not suit these sizes (`PUBLISHED_RATES`).

Source: TESLA, M. Luo et al., WWW 2026, arXiv:2601.19965, section 5.1, and its published code
(alimama-tech/NetCVR, commit 2a8b78a).
"""

import json
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import adsim
from adsim.datasets import cascade
from predictors import PREDICTORS, NetCVRConfig, NetCVRPredictor
from predictors.delivery import DAY_SECONDS
from predictors.stream import Split
from scenarios.results import jsonable
from scenarios.schema import Scenario, load

SPLIT = Split()
LOG_DAYS = 28  # of a generated log: the stream, its test clicks, and what follows them
TUNING_SEED = 1000  # of the world on which learning rates are chosen; no world of the comparison
SETUPS = ("fair", "published")

Settings = MappingProxyType[str, Any]


def _only(**settings: Any) -> Settings:
    return MappingProxyType(settings)


class Method(NamedTuple):
    """A predictor and the settings in which it differs from the defaults of its configuration."""

    predictor: str  # in `PREDICTORS`
    always: Settings = _only()
    published: Settings = _only()  # in set-up published, on top
    like: str = ""  # whose learning rates it has; its own by default


_DAY = _only(pretrain_attribution=DAY_SECONDS)  # labels within 1 day instead of 3
_FROZEN = _only(tables="separate", train_refund_embeddings=False)
_BASELINE = _only(**_FROZEN, **_DAY)
_BASELINE_DAY = _only(**_BASELINE, delay_attribution=DAY_SECONDS)
_DIRECT = _only(head="direct")

METHODS = {
    "pre_trained": Method("pre_trained"),
    "oracle": Method("trained_oracle", published=_only(**_DIRECT, tables="separate")),
    "bdl": Method("bdl", published=_BASELINE),
    "fnc": Method("fnc", published=_BASELINE),
    "fnw": Method("fnw", published=_BASELINE),
    "es_dfm": Method("es_dfm", published=_BASELINE_DAY),
    "defer": Method("defer", published=_only(**_BASELINE, weight_decay=1e-3)),
    "defuse": Method("defuse", published=_BASELINE_DAY),
    "ddfm": Method("ddfm", published=_BASELINE_DAY),
    "dfsn": Method("dfsn", published=_BASELINE),
    "miss": Method("miss", published=_BASELINE),
    "tesla_separate": Method(
        "tesla", _only(tables="separate", ranking="none"), _only(train_refund_embeddings=False)
    ),
    "tesla_shared": Method("tesla", _only(tables="shared", ranking="none")),
    "tesla_hybrid": Method("tesla", _only(ranking="none")),
    "tesla": Method("tesla"),
}
"""The methods of the comparison, in the order of its table."""
EXTRAS = {
    "oracle_cascade": Method("trained_oracle", like="oracle"),
    "oracle_direct": Method("trained_oracle", _DIRECT, _only(tables="separate"), "oracle"),
    "fnc_direct": Method("fnc", _DIRECT, _BASELINE, "fnc"),
    "tesla_rn": Method("tesla", _only(ranking="rn"), like="tesla"),
    "tesla_ln": Method("tesla", _only(ranking="ln"), like="tesla"),
    "tesla_hn": Method("tesla", _only(ranking="hn"), like="tesla"),
    "tesla_traffic": Method("tesla", _only(traffic_offset=True), like="tesla"),
    "tesla_row": Method("tesla", _only(refund_debiasing=False), like="tesla"),
    "tesla_payments": Method("tesla", _only(refund_window=False), like="tesla"),
    "tesla_frozen": Method("tesla", _only(train_refund_embeddings=False), like="tesla"),
    "tesla_narrow": Method("tesla", _only(tables="separate"), like="tesla"),
    "es_dfm_narrow": Method("es_dfm", _only(tables="separate"), like="es_dfm"),
    "es_dfm_frozen": Method("es_dfm", _only(train_refund_embeddings=False), like="es_dfm"),
}
"""Run only if they are asked for: an oracle of TESLA's width (cascade; the same as `oracle` in
set-up fair), direct NetCVR heads, ranking variants, and single parts of the methods switched off.
"""
BASELINES = ("bdl", "fnc", "fnw", "es_dfm", "defer", "defuse", "ddfm", "dfsn", "miss")

# Learning rates of set-up published; in set-up fair the methods have their own (`NetCVRPredictor`).
# The published rate of bdl, fnc, fnw and es_dfm, 5e-2, is for batches of 5,000 rows; with 256 they
# end below the pre-trained model: they have the next lower one.
PUBLISHED_RATES = {name: 1e-2 for name in METHODS} | {"oracle": 5e-2, "defer": 5e-3}


class World(NamedTuple):
    """Where methods are compared."""

    scenario: str  # name or .toml file; or the data file
    setup: str  # in SETUPS
    seed: int  # of episode and training, and added to the structure seed
    clicks: int  # a day; of a data file 0: as many as it has

    @property
    def is_file(self) -> bool:
        """Whether the log is read, not generated."""
        return self.clicks == 0

    @property
    def label(self) -> str:
        """The scenario without folder and endings."""
        path = Path(self.scenario)
        return path.name.split(".")[0] if self.is_file else path.name.removesuffix(".toml")

    @property
    def name(self) -> str:
        """Of the world's folder."""
        return f"{'data-' * self.is_file}{self.label}-{self.setup}-{self.seed}"


class Task(NamedTuple):
    """One method in one world."""

    world: World
    method: str  # in METHODS or EXTRAS
    rate: float | None = None  # learning rate; None: that of the set-up

    @property
    def name(self) -> str:
        """Of the result files."""
        return self.method if self.rate is None else f"{self.method}@{self.rate:g}"

    def file(self, out: Path, ending: str) -> Path:
        """Where a result is kept, ending ".npz" or ".json"."""
        return out / self.world.name / f"{self.name}{ending}"


class Preset(NamedTuple):
    """What is compared unless options say otherwise."""

    clicks: int  # a day
    seeds: dict[tuple[str, str], int]  # number of seeds by scenario and set-up
    other_seeds: int  # of other scenarios


PRESETS = {
    "quick": Preset(14_000, {("cascade_high_refund", "fair"): 1}, 1),
    "full": Preset(
        20_000,
        {
            ("cascade_high_refund", "fair"): 5,
            ("cascade_high_refund", "published"): 3,
            ("cascade", "fair"): 2,
            ("cascade", "published"): 2,
        },
        2,
    ),
}


def choose(kind: str, wanted: Iterable[str], allowed: Iterable[str]) -> list[str]:
    """The wanted names, each once.

    Raises:
        ValueError: one is not allowed; lists those that are.
    """
    names, known = list(dict.fromkeys(wanted)), list(allowed)
    for name in names:
        if name not in known:
            raise ValueError(f"{kind} {name!r} does not exist: one of {', '.join(known)}")
    return names


def choose_methods(text: str = "all") -> list[str]:
    """Methods from "tesla,es_dfm", "all", "extras" or a mixture, in the order of the table."""
    groups = {"all": METHODS, "extras": EXTRAS}
    words = [word.strip() for word in text.split(",")]
    wanted = [name for word in words for name in groups.get(word, (word,))]
    known = [*METHODS, *EXTRAS]
    names = choose("method", wanted, [*known, *groups])
    return sorted(names, key=known.index)


def choose_worlds(
    preset: str = "quick",
    scenarios: Sequence[str] = (),
    setups: Sequence[str] = (),
    seeds: Sequence[int] = (),
    clicks: int | None = None,
    data: Path | None = None,
) -> list[World]:
    """The worlds of a preset; every argument that is given replaces that part of it.

    Raises:
        ValueError: an unknown name, a value out of range, or arguments that exclude each other.
    """
    (preset,) = choose("preset", [preset], PRESETS)
    usual, known_setups = PRESETS[preset], choose("setup", setups, SETUPS)
    if data is not None and (scenarios or clicks is not None):
        raise ValueError("--data: its clicks are those of the file, without --scenario or --clicks")
    if data is not None and not data.exists():
        raise ValueError(f"--data: {data} does not exist")
    if clicks is not None and clicks < 1:
        raise ValueError(f"--clicks: must be >= 1 a day, got {clicks}")
    if any(not 0 <= seed < TUNING_SEED for seed in seeds):
        raise ValueError(f"--seeds: must be in [0, {TUNING_SEED}), got {max(seeds)}")
    pairs = list(usual.seeds)
    names = [str(data)] if data else list(scenarios) or [name for name, _ in pairs]
    chosen_setups = known_setups or list(dict.fromkeys(setup for _, setup in pairs))
    worlds = [
        World(name, setup, seed, 0 if data else clicks or usual.clicks)
        for name in dict.fromkeys(names)
        for setup in chosen_setups
        for seed in seeds or range(usual.seeds.get((name, setup), usual.other_seeds))
    ]
    if len({world.name for world in worlds}) < len(worlds):
        raise ValueError(f"--scenario: names must differ, got {', '.join(names)}")
    return worlds


def scenario_of(world: World) -> Scenario:
    """The scenario of a world, with its traffic and structure.

    Raises:
        ValueError: it cannot be loaded, or is too short.
    """
    plain = load(world.scenario)
    clock = plain.world.time
    scenario = load(
        world.scenario,
        {
            "structure_seed": plain.world.structure_seed + world.seed,
            "traffic.impressions_per_tick": world.clicks * clock.tick_hours / 24,
        },
    )
    if clock.horizon_hours < 24 * LOG_DAYS:
        days = clock.horizon_hours / 24
        raise ValueError(f"scenario {world.label}: must last {LOG_DAYS} days, lasts {days:g}")
    return scenario


def configure(task: Task) -> tuple[type[NetCVRPredictor], NetCVRConfig]:
    """Class and settings of a task's predictor."""
    method, setup = {**METHODS, **EXTRAS}[task.method], task.world.setup
    settings: dict[str, Any] = {"learning_rate": task.rate, **method.always}
    if setup == "published":
        settings["learning_rate"] = task.rate or PUBLISHED_RATES[method.like or task.method]
        settings |= {"official_quirks": True, "embedding_sd": 1.0, **method.published}
    cls = PREDICTORS[method.predictor]
    assert issubclass(cls, NetCVRPredictor)
    return cls, cls.config_class.model_validate(settings)


def settings_of(task: Task) -> dict[str, Any]:
    """Everything that a result depends on, as it is written to JSON."""
    _, config = configure(task)
    settings = {
        "method": task.method,
        "config": config.model_dump(mode="json"),
        "seed": task.world.seed,
        **log_settings(task.world),
    }
    return json.loads(json.dumps(jsonable(settings)))


def log_settings(world: World) -> dict[str, Any]:
    """Everything that a log depends on."""
    about: dict[str, Any] = {"adsim": adsim.__version__, "split": vars(SPLIT), "days": LOG_DAYS}
    if not world.is_file:
        return {**about, "clicks": world.clicks, "world": _world_settings(world)}
    path = Path(world.scenario)
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    stats = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return {**about, "data": stats, "cardinalities": cascade.find_cardinalities(path)}


@lru_cache(maxsize=64)
def _world_settings(world: World) -> dict[str, Any]:
    return scenario_of(world).world.model_dump(mode="json")
