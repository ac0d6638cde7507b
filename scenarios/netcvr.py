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

from functools import partial
from typing import Any

from adsim.datasets import cascade
from predictors import PREDICTORS, NetCVRConfig, NetCVRPredictor
from predictors.delivery import DAY_SECONDS
from predictors.stream import Split
from scenarios import comparison
from scenarios.comparison import Method, Preset, Task, World, only

SPLIT = Split()
LOG_DAYS = 28  # of a generated log: the stream, its test clicks, and what follows them

_DAY = only(pretrain_attribution=DAY_SECONDS)  # labels within 1 day instead of 3
_FROZEN = only(tables="separate", train_refund_embeddings=False)
_BASELINE = only(**_FROZEN, **_DAY)
_BASELINE_DAY = only(**_BASELINE, delay_attribution=DAY_SECONDS)
_DIRECT = only(head="direct")

METHODS = {
    "pre_trained": Method("pre_trained"),
    "oracle": Method("trained_oracle", published=only(**_DIRECT, tables="separate")),
    "bdl": Method("bdl", published=_BASELINE),
    "fnc": Method("fnc", published=_BASELINE),
    "fnw": Method("fnw", published=_BASELINE),
    "es_dfm": Method("es_dfm", published=_BASELINE_DAY),
    "defer": Method("defer", published=only(**_BASELINE, weight_decay=1e-3)),
    "defuse": Method("defuse", published=_BASELINE_DAY),
    "ddfm": Method("ddfm", published=_BASELINE_DAY),
    "dfsn": Method("dfsn", published=_BASELINE),
    "miss": Method("miss", published=_BASELINE),
    "tesla_separate": Method(
        "tesla", only(tables="separate", ranking="none"), only(train_refund_embeddings=False)
    ),
    "tesla_shared": Method("tesla", only(tables="shared", ranking="none")),
    "tesla_hybrid": Method("tesla", only(ranking="none")),
    "tesla": Method("tesla"),
}
"""The methods of the comparison, in the order of its table."""
EXTRAS = {
    "oracle_cascade": Method("trained_oracle", like="oracle"),
    "oracle_direct": Method("trained_oracle", _DIRECT, only(tables="separate"), "oracle"),
    "fnc_direct": Method("fnc", _DIRECT, _BASELINE, "fnc"),
    "tesla_rn": Method("tesla", only(ranking="rn"), like="tesla"),
    "tesla_ln": Method("tesla", only(ranking="ln"), like="tesla"),
    "tesla_hn": Method("tesla", only(ranking="hn"), like="tesla"),
    "tesla_traffic": Method("tesla", only(traffic_offset=True), like="tesla"),
    "tesla_row": Method("tesla", only(refund_debiasing=False), like="tesla"),
    "tesla_payments": Method("tesla", only(refund_window=False), like="tesla"),
    "tesla_frozen": Method("tesla", only(train_refund_embeddings=False), like="tesla"),
    "tesla_narrow": Method("tesla", only(tables="separate"), like="tesla"),
    "es_dfm_narrow": Method("es_dfm", only(tables="separate"), like="es_dfm"),
    "es_dfm_frozen": Method("es_dfm", only(train_refund_embeddings=False), like="es_dfm"),
}
"""Run only if they are asked for: an oracle of TESLA's width (cascade; the same as `oracle` in
set-up fair), direct NetCVR heads, ranking variants, and single parts of the methods switched off.
"""
BASELINES = ("bdl", "fnc", "fnw", "es_dfm", "defer", "defuse", "ddfm", "dfsn", "miss")

# Learning rates of set-up published; in set-up fair the methods have their own (`NetCVRPredictor`).
# The published rate of bdl, fnc, fnw and es_dfm, 5e-2, is for batches of 5,000 rows; with 256 they
# end below the pre-trained model: they have the next lower one.
PUBLISHED_RATES = {name: 1e-2 for name in METHODS} | {"oracle": 5e-2, "defer": 5e-3}

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


choose_methods = partial(comparison.choose_methods, METHODS, EXTRAS)
choose_worlds = partial(comparison.choose_worlds, PRESETS)


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
    return comparison.settings_of(task, configure(task)[1], log_settings(task.world))


def log_settings(world: World) -> dict[str, Any]:
    """Everything that a log depends on."""
    return comparison.log_settings(world, SPLIT, LOG_DAYS, cascade.find_cardinalities)
