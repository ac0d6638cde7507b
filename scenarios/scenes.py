"""A comparison of predictors for several scenes on a stream: its methods and its worlds.

A method is run in a world: a log of a scenario and a seed, and a set-up that says what is predicted
and how much the scenes' laws differ (`effects.scene_heterogeneity`).

different, half, alike: conversions of clicks, with heterogeneity 1, 1/2 and 0. Every impression is
    a click, as in the logs of the other comparisons.
ctr_different, ctr_alike: clicks of impressions, with heterogeneity 1 and 0.

All methods have one set of embeddings (`one_per_scene`: one per scene), hidden layers 16-8 and the
same learning rate, 3e-3: of 1e-3, 3e-3 and 1e-2 the best in another world, of all methods but
`shared_mlp` (macro AUC .5846 at 1e-3, .5844 at 3e-3) and `one_per_scene` (.7426, .7410).
`scene_input_wide` has layers 40-20, so that the simplest way to tell scenes apart is there with
more parameters than MI-DPG, too; `star_plain` is STAR without its normalisation per scene.

Sources: MI-DPG, Cheng et al., CIKM 2023, arXiv:2603.21209; the papers named in
`predictors/scene_peers.py` and `scene_experts.py`.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal, NamedTuple

from predictors import PREDICTORS
from predictors.delivery import Windows
from predictors.scenes import CTR_SPLIT, CVR_SPLIT, SceneConfig, ScenePredictor
from predictors.stream import Split
from scenarios import comparison
from scenarios.comparison import Method, Preset, Task, World, only, scenario_of

LOG_DAYS = 25  # of a generated log: the stream and its test rows


class Setup(NamedTuple):
    """What is predicted, and how much the laws of the scenes differ."""

    target: Literal["cvr", "ctr"]
    heterogeneity: float  # 0: alike, 1: independent


SETUPS = {
    "different": Setup("cvr", 1.0),
    "half": Setup("cvr", 0.5),
    "alike": Setup("cvr", 0.0),
    "ctr_different": Setup("ctr", 1.0),
    "ctr_alike": Setup("ctr", 0.0),
}

METHODS = {
    "shared_mlp": Method("shared_mlp"),
    "scene_input": Method("scene_input"),
    "scene_input_wide": Method("scene_input", only(bottom=(40,), tower=(20,)), like="scene_input"),
    "shared_bottom": Method("shared_bottom"),
    "mmoe": Method("mmoe"),
    "ple": Method("ple"),
    "star": Method("star"),
    "star_plain": Method("star", only(partitioned=False), like="star"),
    "apg": Method("apg"),
    "pepnet": Method("pepnet"),
    "one_per_scene": Method("one_per_scene"),
    "mi_dpg": Method("mi_dpg"),
}
"""The methods of the comparison, in the order of its table."""


def _mi_dpg(**settings: Any) -> Method:
    return Method("mi_dpg", only(**settings), like="mi_dpg")


_TWICE = only(pretrain_epochs=2)
EXTRAS = {
    "mi_dpg_no_mi": _mi_dpg(information={"weight": 0.0}),
    "mi_dpg_r2": _mi_dpg(weighting={"rank": 2}),
    "mi_dpg_r8": _mi_dpg(weighting={"rank": 8}),
    "mi_dpg_sigmoid": _mi_dpg(weighting={"gate": "sigmoid"}),
    "mi_dpg_diagonal": _mi_dpg(weighting={"core": "diagonal"}),
    "mi_dpg_infonce": _mi_dpg(information={"estimator": "infonce"}),
    "mi_dpg_twice": _mi_dpg(**_TWICE),
    "scene_input_wide_twice": Method(
        "scene_input", only(bottom=(40,), tower=(20,), **_TWICE), like="scene_input"
    ),
    "shared_bottom_twice": Method("shared_bottom", only(**_TWICE), like="shared_bottom"),
    "star_plain_twice": Method("star", only(partitioned=False, **_TWICE), like="star"),
}
"""Run only if they are asked for: MI-DPG without its mutual-information term, with other ranks,
gates and cores of its weighting, or another estimator of the information; two passes over the days
before the stream.
"""
FIRST = "mi_dpg"  # the method that the others are compared with
PEERS = tuple(name for name in METHODS if name != FIRST)

PRESETS = {
    "quick": Preset(8_000, {("multi_scene", "different"): 1, ("multi_scene", "alike"): 1}, 1),
    "full": Preset(
        20_000,
        {
            ("multi_scene", "different"): 5,
            ("multi_scene", "half"): 3,
            ("multi_scene", "alike"): 3,
            ("multi_scene", "ctr_different"): 3,
        },
        2,
        with_extras=(("multi_scene", "different"),),
    ),
}

choose_methods = partial(comparison.choose_methods, METHODS, EXTRAS)
choose_worlds = partial(comparison.choose_worlds, PRESETS, known_setups=tuple(SETUPS))


def overrides(world: World) -> dict[str, Any]:
    """What a set-up makes of the scenario; traffic counts what is predicted.

    In a click log each impression is a click, whatever the law of clicks. That law weights the mean
    over which `conversion.cvr` is calibrated, though: where all are clicked with the same
    probability it is the mean of the log's rows. Platform noise plays no part in a click log; it is
    0 in the settings that are kept with results, by which they are told apart.
    """
    setup = SETUPS[world.setup]
    changed = {
        "time.tick_hours": 1.0,
        "time.num_ticks": 24 * LOG_DAYS,
        "effects.scene_heterogeneity": setup.heterogeneity,
    }
    if setup.target == "ctr":
        return changed
    clicked = {"click.ctr": 0.999, "effects.click.sd": 0.0, "effects.click.interaction_sd": 0.0}
    return {**changed, **clicked, "platform_noise.ctr_sd": 0.0, "platform_noise.cvr_sd": 0.0}


def split_of(world: World) -> Split:
    """Days of pre-training and stream."""
    return CTR_SPLIT if SETUPS[world.setup].target == "ctr" else CVR_SPLIT


def configure(task: Task) -> tuple[type[ScenePredictor], SceneConfig]:
    """Class and settings of a task's predictor."""
    method = {**METHODS, **EXTRAS}[task.method]
    cls = _class_of(method)
    entities = scenario_of(task.world, LOG_DAYS, overrides).world.entities
    # Users and items have an id each before their fields; then comes the scene.
    place = 2 + len(entities.user_cardinalities) + len(entities.item_cardinalities)
    settings: dict[str, Any] = cls.config_class().model_dump()
    for name, value in method.always.items():
        settings[name] = {**settings[name], **value} if isinstance(value, Mapping) else value
    settings |= {"target": SETUPS[task.world.setup].target, "scene_field": place}
    rates_of = METHODS[method.like or task.method]
    settings["learning_rate"] = task.rate or _class_of(rates_of).learning_rate
    return cls, cls.config_class.model_validate(settings)


def _class_of(method: Method) -> type[ScenePredictor]:
    cls = PREDICTORS[method.predictor]
    assert issubclass(cls, ScenePredictor)
    return cls


def settings_of(task: Task) -> dict[str, Any]:
    """Everything that a result depends on, as it is written to JSON."""
    return comparison.settings_of(task, configure(task)[1], log_settings(task.world))


def log_settings(world: World) -> dict[str, Any]:
    """Everything that a log depends on.

    Raises:
        ValueError: see `scenario_of`; or the conversions of a scenario are not those of 3 days.
    """
    settings = comparison.log_settings(world, split_of(world), LOG_DAYS, overrides=overrides)
    hours = settings["world"]["windows"]["conversion_hours"]
    need = Windows().conversion_attribution / 3_600
    if hours != need:
        key = f"scenario {world.label}: world.windows.conversion_hours"
        raise ValueError(f"{key} must be {need:g}, got {hours:g}")
    return settings
