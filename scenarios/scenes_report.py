"""Tables of a comparison of predictors for several scenes; what intervals are: `report`.

Figures are in `scenes_figures.py`.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from adsim.types import FloatArray
from predictors.scene_nets import ParameterCount
from predictors.scenes import CVR_SPLIT
from scenarios import console, report
from scenarios.report import Metric
from scenarios.scenes import FIRST, PEERS
from scenarios.scenes_tasks import (
    BEST,
    COLD_ROWS,
    OBSERVED,
    SCORES,
    STUDY,
    SceneResult,
    scene_aucs,
)
from scenarios.tasks import mean_of

_SCENE = "scene"  # prefix of the sums of single scenes

METRICS = (
    Metric("macro_auc", "macro_auc", 1),
    Metric("auc", "auc", 1),
    Metric("gauc", "gauc", 1),
    Metric("cold_auc", "cold_auc", 1),
    Metric("nll", "nll", -1),
    Metric("macro_log_pcoc", _SCENE, -1, of_sums=True),
)
_NAMES = {"macro_auc": "macro AUC", "cold_auc": "cold AUC", "nll": "NLL"}  # in the note


def facts(result: SceneResult) -> dict[str, Any]:
    """Of a run: parameters, and of each scene its rows before the stream and its AUC."""
    count = ParameterCount._make(result.parameters.tolist())
    truth = result.truth.astype(np.float64)
    return {
        "parameters": count.total,
        "parameters_without_ids": count.total - count.tables,
        "parameters_per_scene": count.per_scene,
        "scene_rows": result.known.tolist(),
        "scene_auc": scene_aucs(result, result.predicted.astype(np.float64)),
        "scene_auc_truth": scene_aucs(result, truth),
    }


collect = partial(report.collect, STUDY, facts=facts)


class Group(report.Group):
    """The methods of one scenario and set-up, over the same days of the same seeds."""

    split = CVR_SPLIT
    baselines = PEERS

    def __init__(self, segments: pd.DataFrame) -> None:
        sums = [name for name in segments.columns if name.startswith(_SCENE)]
        sums = [name for name in sums if name.endswith("_observed")]
        # Other scenarios may have more scenes: their columns are empty here.
        absent = [name.removesuffix("_observed") for name in sums if np.isnan(segments[name]).all()]
        ends = ("_predicted", "_observed")
        super().__init__(segments.drop(columns=[name + end for name in absent for end in ends]))
        self.scenes = [name.removesuffix("_observed") for name in sums]
        self.scenes = [name for name in self.scenes if name not in absent]

    def scene_errors(self, method: str, by: NDArray[Any]) -> FloatArray:
        """Mean over the scenes of |ln PCOC|, of all rows with one value of `by`."""
        with np.errstate(divide="ignore"):
            ratios = np.array([self.calibration(method, name, by) for name in self.scenes])
            errors = np.abs(np.log(ratios))  # (S, values of `by`)
        known = ~np.isnan(errors)
        total, count = np.where(known, errors, 0.0).sum(axis=0), known.sum(axis=0)
        return np.divide(total, count, out=np.full(count.size, np.nan), where=count > 0)

    def _miscalibration(self, method: str, column: str) -> FloatArray:
        """|ln PCOC| by cluster: of all rows; or mean over the scenes."""
        if column == _SCENE:
            return self.scene_errors(method, self.clusters)
        return super()._miscalibration(method, column)

    def row(self, method: str) -> dict[str, Any]:
        """Means of a method, and its differences to the strongest peers and to MI-DPG."""
        row = self.head(method, "macro_auc")
        row |= {name: self.mean(method, name) for name in (*SCORES, *OBSERVED, *BEST)}
        row |= {"pcoc": self.pcoc(method, "all"), "cold_pcoc": self.pcoc(method, "cold")}
        row["macro_log_pcoc"] = mean_of(self.scene_errors(method, self.clusters))
        for metric in METRICS:
            row |= self.differences(metric, method, FIRST)
        row["clusters"] = self.clustering
        return row


def rows_of(segments: pd.DataFrame, runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The table: one row per scenario, set-up and method."""
    rows, counts = [], ("parameters", "parameters_without_ids", "parameters_per_scene")
    for (scenario, setup), group in report.groups_of(segments, Group).items():
        for method in group.methods:
            own = report.runs_of(runs, scenario, setup, method)
            row = {"scenario": scenario, "setup": setup, **group.row(method)}
            row |= {name: own[0][name] for name in counts}
            rows.append({**row, "rows_per_s": report.speed_of(own)})
    return rows


def print_rows(rows: Sequence[dict[str, Any]]) -> None:
    """One table per scenario and set-up."""
    header = ["", "macro AUC", "AUC", "GAUC", "cold AUC", "NLL", "PCOC", "macro |ln PCOC|"]
    header += ["parameters", "no ids", "a scene", "rows/s"]
    header += [f"{FIRST}: macro AUC diff.", "cold AUC diff."]
    report.print_tables(rows, header, _cells, _note)


def _cells(row: dict[str, Any]) -> list[str]:
    digits = {"macro_auc": 4, "auc": 4, "gauc": 4, "cold_auc": 4, "nll": 4, "pcoc": 3}
    digits |= {"macro_log_pcoc": 3, "parameters": 0, "parameters_without_ids": 0}
    digits |= {"parameters_per_scene": 0, "rows_per_s": 0}
    cells = [console.number(row[name], places) for name, places in digits.items()]
    return [row["method"], *cells, *(_difference(row, name) for name in ("macro_auc", "cold_auc"))]


def _difference(row: dict[str, Any], name: str) -> str:
    if row["method"] == FIRST:
        return ""
    key = f"{FIRST}_{name}_diff"
    return console.with_interval(row[key], row[f"{key}_low"], row[f"{key}_high"], 4)


def _note(rows: Sequence[dict[str, Any]]) -> str:
    row, note = rows[0], report.note_of(rows, "without macro AUC", "days")
    note += " All but rows/s with true probabilities in place of labels; with them as predictions"
    bounds = (console.number(row[f"{name}_auc_truth"], 4) for name in ("macro", "cold"))
    note += " macro AUC is {} and cold AUC {}.".format(*bounds)
    note += f" Macro: mean over scenes; cold: over those with < {COLD_ROWS:,} rows before the"
    note += " stream. no ids: parameters without embeddings of ids; a scene: for one more scene."
    best = [f"{title}: {row[f'{name}_baseline']}" for name, title in _NAMES.items()]
    if row["macro_auc_baseline"]:
        note += f" Best peer ({', '.join(best)})."
    if any(other["method"] == FIRST for other in rows):
        note += f" diff.: {FIRST} less the method, paired, with 95 % interval over"
        note += f" {report.clusters_of(row)}."
    return note
