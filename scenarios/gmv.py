"""A comparison of GMV predictors on a stream of delayed purchases: its methods and its worlds.

A method is run in a world: a log of converted clicks (of a scenario and a seed, or read from a
file) and a set-up that says how all methods are configured.

fair: every method has READER's networks or one tower of them, the same constant schedule, and its
    own learning rate, tuned on another world.
published: every method has the learning rates of the stream, and their decay, that the code
    published with READER gives it, and that code's departures from the paper (`official_quirks`).
    It differs from that code in
    - sizes of networks, embeddings and batches, which are those of set-up fair (`GmvConfig`)
    - passes before the stream: three (published: one)
    - initial embeddings: of standard deviation .1 (1)
    - learning rates of the router, 1e-3 (2e-3), and of the calibrator, 1e-2 (1e-3).
    One pass, from embeddings of standard deviation 1, is too little for some thousand clicks a day
    (AUC .68 in scenario trace, .79 after five): there, methods gain from every further row they
    train on.

Source: READER, X. Li et al., WWW 2026, arXiv:2601.20307, sections 5.1 to 5.4, and its published
code (alimama-tech/OnlineGMV, commit 7d4db837).
"""

from functools import partial
from typing import Any

from adsim.datasets import trace
from predictors import PREDICTORS, GmvConfig, GmvPredictor
from predictors.purchase_rows import ATTRIBUTION_SECONDS
from predictors.purchase_stream import READER_SPLIT
from scenarios import comparison
from scenarios.comparison import Method, Preset, Task, World, only

SPLIT = READER_SPLIT
LOG_DAYS = 82  # of a generated log: the stream and its test clicks

METHODS = {
    "pre_single": Method("pre_single"),
    "offline_single": Method("offline_single"),
    "online_single": Method("online_single"),
    "oracle_single": Method("oracle_single"),
    "pre_dual": Method("pre_dual"),
    "offline_dual": Method("offline_dual"),
    "online_dual": Method("online_dual"),
    "oracle_dual": Method("oracle_dual"),
    "reader": Method("reader"),
}
"""The methods of the comparison, in the order of its table."""
EXTRAS = {
    "online_dual_ends": Method(
        "reader",
        only(calibrate=False, gra_in_main=True, gra_weight=0.0),
        like="online_dual",
    ),
    "online_dual_gra": Method("reader", only(calibrate=False), like="reader"),
    "reader_calib": Method("reader", only(window_ends=False), like="reader"),
    "reader_gra": Method("reader", only(unlearning_weight=0.0), like="reader"),
    "reader_currency": Method(
        "reader",
        only(mixing="currency", router_temperature=0.5, gra_in_main=True, target_zones=True),
        like="reader",
    ),
    "online_dual_hard": Method("online_dual", only(routing="hard"), like="online_dual"),
    "reader_hard": Method("reader", only(routing="hard"), like="reader"),
    "oracle_independent": Method("oracle_dual", only(bottom="independent"), like="oracle_dual"),
    "oracle_frozen": Method("oracle_dual", only(bottom="frozen"), like="oracle_dual"),
}
"""Run only if they are asked for.

online_dual_ends: Online-Dual that also trains at the ends of windows: READER's rows and final
    labels, one mean of all errors, neither calibration nor alignment.
online_dual_gra: READER without calibration and unlearning: amounts seen, and alignment (GRA).
reader_calib: READER without ends of windows: calibrated labels alone (its table 5).
reader_gra: READER without unlearning: calibration and alignment (table 5).
reader_currency: READER as the published code has it in four settings: amounts are mixed in
    currency, the router has temperature .5, ends of windows count in the mean over rows, and labels
    are mixed in the router's middle zone only.
online_dual_hard, reader_hard: Online-Dual (table 7) and READER with hard routing.
oracle_independent, oracle_frozen: the dual oracle with an encoder for each tower, or with one that
    does not learn in the stream, in place of a shared one (table 6).
"""
SINGLE_TOWER = ("pre_single", "offline_single", "online_single")
TRUTH = "truth"  # the expectations of a generated log, in place of a method

# Of set-up published; in set-up fair the methods have their own (`GmvPredictor`).
PUBLISHED_RATES = {
    "offline_single": 1e-4,
    "online_single": 1e-2,
    "oracle_single": 1e-2,
    "offline_dual": 1e-3,
    "online_dual": 1e-2,
    "oracle_dual": 1e-3,
    "reader": 1e-2,
}
# After k segments (offline: days) a rate is multiplied by g^(k / 2).
PUBLISHED_DECAY = {
    "offline_single": 0.95,
    "online_single": 0.99,
    "oracle_single": 0.99,
    "offline_dual": 0.95,
    "online_dual": 0.95,
    "oracle_dual": 0.99,
    "reader": 0.95,
}
_PUBLISHED = only(official_quirks=True, head="absolute", pretrain_epochs=3)

PRESETS = {
    "quick": Preset(5_400, {("trace", "fair"): 1}, 1),
    "full": Preset(
        5_400,
        {
            ("trace", "fair"): 5,
            ("trace", "published"): 3,
            ("trace_many", "fair"): 5,
            ("trace_still", "fair"): 5,
        },
        2,
        with_extras=(("trace", "fair"),),
    ),
}

choose_methods = partial(comparison.choose_methods, METHODS, EXTRAS)
choose_worlds = partial(comparison.choose_worlds, PRESETS, folders=False)


def configure(task: Task) -> tuple[type[GmvPredictor], GmvConfig]:
    """Class and settings of a task's predictor."""
    method = {**METHODS, **EXTRAS}[task.method]
    rates_of = method.like or task.method
    settings: dict[str, Any] = dict(method.always)
    if task.world.setup == "published":
        settings |= {**_PUBLISHED, "rate_decay": PUBLISHED_DECAY.get(rates_of, 1.0)}
        settings |= method.published
        rate = PUBLISHED_RATES.get(rates_of)
    else:
        rate = _class_of(METHODS[rates_of]).learning_rate
    settings["learning_rate"] = task.rate or rate
    cls = _class_of(method)
    return cls, cls.config_class.model_validate(settings)


def _class_of(method: Method) -> type[GmvPredictor]:
    cls = PREDICTORS[method.predictor]
    assert issubclass(cls, GmvPredictor)
    return cls


def settings_of(task: Task) -> dict[str, Any]:
    """Everything that a result depends on, as it is written to JSON."""
    config = None if task.method == TRUTH else configure(task)[1]
    return comparison.settings_of(task, config, log_settings(task.world))


def log_settings(world: World) -> dict[str, Any]:
    """Everything that a log depends on.

    Raises:
        ValueError: see `scenario_of`; or the GMV of a scenario is not that of 7 days.
    """
    settings = comparison.log_settings(world, SPLIT, LOG_DAYS, trace.find_cardinalities)
    if not world.is_file:
        hours, need = settings["world"]["windows"]["gmv_hours"], ATTRIBUTION_SECONDS / 3_600
        if hours != need:
            key = f"scenario {world.label}: world.windows.gmv_hours"
            raise ValueError(f"{key} must be {need:g}, got {hours:g}")
    return settings
