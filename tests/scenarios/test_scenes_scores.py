"""Scores of predictions in several scenes, by hand."""

import math

import numpy as np
import pytest

from predictors.grouped_metrics import gauc, soft_auc, soft_nll
from scenarios import tasks
from scenarios.scenes_report import facts
from scenarios.scenes_tasks import SCORES, SceneResult, scene_aucs, score

# Day 0: three rows of scene 0, two of scene 1, two of scene 2 (cold); day 1: one row of scene 0.
TRUTH = [0.5, 0.25, 0.75, 0.75, 0.25, 0.5, 0.25, 0.5]
PREDICTED = [0.4, 0.3, 0.6, 0.2, 0.5, 0.1, 0.1, 0.5]
SCENE = [0, 0, 0, 1, 1, 2, 2, 0]


def scene_result(predicted=PREDICTED, known=(5_000, 1_000, 999)):
    return SceneResult(
        segment=np.array([0, 3, 9, 0, 9, 4, 9, 10])[[0, 3, 1, 5, 2, 4, 6, 7]],
        click=np.arange(8),
        predicted=np.array(predicted, np.float32)[[0, 3, 1, 5, 2, 4, 6, 7]],
        label=np.array([1, 0, 1, 1, 0, 0, 1, 1], bool)[[0, 3, 1, 5, 2, 4, 6, 7]],
        truth=np.array(TRUTH, np.float32)[[0, 3, 1, 5, 2, 4, 6, 7]],
        scene=np.array(SCENE)[[0, 3, 1, 5, 2, 4, 6, 7]],
        user=np.array([0, 0, 1, 0, 1, 1, 1, 0])[[0, 3, 1, 5, 2, 4, 6, 7]],
        known=np.array(known),
        parameters=np.array([100, 60, 9]),
        seconds=np.ones((20, 2)),
    )


def test_scores_of_every_day():
    table = score(scene_result())
    assert table.segment.tolist() == [0, 10]
    assert table.clicks.tolist() == [7, 1]
    first = table.iloc[0]
    held = [np.array(values[:7], np.float32) for values in (TRUTH, PREDICTED)]
    assert first.auc == soft_auc(*held)
    assert first.gauc == gauc(*held, [0, 0, 1, 0, 1, 1, 1])
    assert first.nll == pytest.approx(soft_nll(*held))
    # Scene 0 is in the order of its truth, scene 1 reversed, scene 2 tied.
    zero = soft_auc(TRUTH[:3], TRUTH[:3])
    assert first.macro_auc == pytest.approx((zero + 0.1 + 0.5) / 3)
    assert first.cold_auc == 0.5
    best = soft_auc([0.5, 0.25], [0.5, 0.25])
    assert first.cold_auc_truth == pytest.approx(best)
    assert first.macro_auc_truth == pytest.approx((zero + 0.9 + best) / 3)
    # Labels 1, 0, 1 in scene 0: half a pair (1 above, 1 below); scenes 1 and 2 have one pair each.
    assert first.macro_auc_observed == pytest.approx((0.5 * 2 + 0 + 0.5) / 3)
    expected = soft_nll([0.5, 0.25], np.float32([0.1, 0.1]))
    assert first.cold_nll == pytest.approx(expected)
    assert first.all_predicted == pytest.approx(2.2)
    assert first.all_observed == pytest.approx(3.25)
    assert (first.cold_predicted, first.cold_observed) == (pytest.approx(0.2), 0.75)
    assert first.scene1_predicted == pytest.approx(0.7)
    assert first.scene1_observed == 1.0


def test_a_day_of_one_row_has_no_auc():
    last = score(scene_result()).iloc[1]
    assert math.isnan(last.auc)
    assert math.isnan(last.macro_auc)
    assert math.isnan(last.cold_auc)
    assert last.nll == pytest.approx(-math.log(0.5))
    assert math.isnan(last.cold_nll)
    assert last.cold_observed == 0


def test_days_without_rows_are_there():
    few = scene_result()
    few = few._replace(seconds=np.ones((30, 2)))
    table = score(few)
    assert table.clicks.tolist() == [7, 1, 0]
    assert table[[*SCORES]].iloc[2].isna().all()


def test_scenes_are_cold_by_their_rows_before_the_stream():
    table = score(scene_result(known=(5_000, 999, 1_000)))
    assert table.cold_auc[0] == pytest.approx(0.1)
    assert math.isnan(score(scene_result(known=(5_000, 5_000, 5_000))).cold_auc[0])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_errors_of_a_diverged_run_are_infinite(bad):
    table = score(scene_result([0.4, 0.3, 0.6, 0.2, bad, 0.1, 0.1, 0.5]))
    assert table.nll[0] == table.cold_nll[0] == table.macro_nll[0] == math.inf
    assert math.isnan(table.auc[0])
    assert table.macro_auc_truth[0] > 0.5
    assert tasks.has_diverged(table)
    assert not tasks.has_diverged(score(scene_result()))


def test_facts_of_a_run():
    found = facts(scene_result())
    assert found["parameters"] == 100
    assert found["parameters_without_ids"] == 40
    assert found["parameters_per_scene"] == 9
    assert found["scene_rows"] == [5_000, 1_000, 999]
    assert found["scene_auc"][1:] == [pytest.approx(0.1), 0.5]
    assert found["scene_auc_truth"][1] == pytest.approx(0.9)


def test_scenes_without_rows_or_predictions_have_no_auc():
    result = scene_result(known=(5_000, 1_000, 999, 3))
    assert math.isnan(scene_aucs(result, result.predicted)[3])
    assert np.isnan(scene_aucs(result, np.full(8, np.nan))).all()
