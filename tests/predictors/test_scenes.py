"""Predictors for several scenes on a small stream: estimates, rows, scenes, parameters."""

import numpy as np
import pytest
import torch
from click_logs import make_log
from small_predictors import differing, impressions, state
from small_scenes import (
    BY_EMBEDDING,
    DAY,
    NAMES,
    SCENE,
    SPLIT,
    TARGETS,
    WINDOWS,
    S,
    clicks,
    fitted,
    means,
    new_predictor,
    shown,
    stream,
)

from adsim.types import AuctionResult, Impressions, Target, Window
from predictors import PREDICTORS, ScenePredictor
from predictors.delivery import RULES, deliver, final_labels
from predictors.nets import Fields
from predictors.scene_nets import LEAST_ROWS, SceneColumn, num_parameters
from predictors.scene_peers import SCENE_NETS
from predictors.stream import gather, rounds

ALL = pytest.mark.parametrize("name", NAMES)
BOTH = pytest.mark.parametrize("target", TARGETS)


def test_every_network_has_its_predictor():
    mine = {name for name, cls in PREDICTORS.items() if issubclass(cls, ScenePredictor)}
    assert mine == set(SCENE_NETS)
    assert all(PREDICTORS[name].name == name for name in mine)
    assert not any(PREDICTORS[name].privileged for name in mine)


@ALL
@BOTH
def test_stream_gives_probabilities_again_and_again(name, target):
    runs = []
    for _ in range(2):
        predictor, plays = fitted(name, target), stream(target)
        result = gather(rounds(predictor, plays, (Target(target),), lambda k: None))
        runs.append((predictor, result.means[0]))
    (predictor, found), (other, again) = runs
    np.testing.assert_array_equal(found, again)
    assert predictor.losses == other.losses
    assert predictor.losses
    assert np.isfinite(predictor.losses).all()
    assert ((found > 0) & (found < 1)).all()  # no NaN, either
    assert np.unique(found).size > 10
    assert predictor.targets == {Target(target)}
    (estimate,) = predictor.predict(impressions(clicks().features[:7])).values()
    assert not estimate.std.any()
    assert estimate.std.shape == (7,)


# --- estimates by hand -------------------------------------------------------------------------
def set_linear(predictor, slope):
    """Makes a network without hidden layers say slope times the first column of embeddings."""
    net, others = predictor.main.net, predictor.column.others
    with torch.no_grad():
        net.table.zero_()
        net.table[:, 0] = torch.arange(others.size) * 0.1  # rows are numbered through
        for weight in net.mlp.layers[0].parameters():
            weight.zero_()
        net.mlp.layers[0].weight[0, 0] = slope  # of the first field
        net.mlp.layers[0].weight[0, 4] = 1.0  # of the third of the others, the last one
    return net


PLAIN = {"bottom": (), "tower": ()}
FOUR = np.array([[0, 0, 0, 0], [5, 4, 2, 3], [2, 1, 1, 0], [9, 0, 0, -1]], np.int32)
# Rows of embeddings: fields of 6, 5 and 4 ids have rows 0-6, 7-12 and 13-17, the last unknown.
FIRST, LAST = np.array([0.0, 0.5, 0.2, 0.6]), np.array([1.3, 1.6, 1.3, 1.7])


def sigmoid(logit):
    return 1 / (1 + np.exp(-np.asarray(logit)))


def test_network_that_does_not_know_the_scene_by_hand():
    predictor = fitted("shared_mlp", embedding_dim=2, **PLAIN)
    set_linear(predictor, -2.0)
    expected = sigmoid(-2 * FIRST + LAST)
    np.testing.assert_allclose(means(predictor, FOUR), expected, rtol=1e-6)


def test_scene_is_the_id_in_its_column():
    predictor = fitted("scene_input", embedding_dim=2, scene_dim=1, **PLAIN)
    net = set_linear(predictor, 1.0)
    with torch.no_grad():
        net.scene.copy_(torch.tensor([[1.0], [2.0], [6.0]]))
        net.mlp.layers[0].weight[0, 6] = 0.5  # of the scene
        net.bias.copy_(torch.tensor([[0.1], [0.2], [0.3]]))
    scene = np.array([0.5 + 0.1, 3.0 + 0.3, 1.0 + 0.2, 0.5 + 0.1])
    np.testing.assert_allclose(means(predictor, FOUR), sigmoid(FIRST + LAST + scene), rtol=1e-6)
    # Never seen: mean embedding 3, mean bias .2.
    for other in (S, -1, 10**9):
        features = FOUR.copy()
        features[:, SCENE] = other
        expected = sigmoid(FIRST + LAST + 1.5 + 0.2)
        np.testing.assert_allclose(means(predictor, features), expected, rtol=1e-6)
    # Scenes 0 and 2 have been trained on enough: mean embedding 3.5, bias .2; 1 gets them, too.
    net.trained[1] = LEAST_ROWS - 1
    for other in (1, S):
        features[:, SCENE] = other
        expected = sigmoid(FIRST + LAST + 1.75 + 0.2)
        np.testing.assert_allclose(means(predictor, features), expected, rtol=1e-6)


def test_the_scene_of_the_record_plays_no_part():
    predictor, features = fitted("mi_dpg"), clicks().features[:20]
    plain = impressions(features)
    (one,), (two,) = (
        predictor.predict(each).values()
        for each in (plain, plain._replace(scene=features[:, SCENE] + 1))
    )
    np.testing.assert_array_equal(one.mean, two.mean)


@pytest.mark.parametrize("name", [*BY_EMBEDDING, "shared_mlp"])
def test_permuted_scenes_permute_the_estimates(name):
    predictor, features = fitted(name), clicks().features[:60].copy()
    expected, order = means(predictor, features), torch.tensor([2, 0, 1])
    net = predictor.main.net
    with torch.no_grad():
        for part in ("scene", "bias"):
            if hasattr(net, part):
                getattr(net, part).copy_(getattr(net, part)[order])  # new scene i is the old one
    features[:, SCENE] = np.argsort(order.numpy())[features[:, SCENE]]
    np.testing.assert_allclose(means(predictor, features), expected, rtol=1e-5)


# Fields of 3, 4 and 2 ids have rows 0-3, 4-8 and 9-11, the last unknown; without one of them the
# rows of those after it move down.
@pytest.mark.parametrize(
    ("place", "others", "scene"),
    [
        (0, [[1, 6], [3, 7]], [2, 3]),
        (1, [[2, 5], [3, 6]], [1, 3]),
        (2, [[2, 5], [3, 7]], [1, 2]),
    ],
)
def test_scene_is_taken_out_of_the_ids(place, others, scene):
    fields = Fields((3, 4, 2))
    column = SceneColumn(fields, place)
    features = np.array([[2, 1, 1], [3, 3, -1]], np.int32)
    found, at = column.split(fields.encode(features))
    assert at.tolist() == scene
    assert torch.equal(found, column.others.encode(np.delete(features, place, 1)))
    assert found.tolist() == others
    assert column.num_scenes == (3, 4, 2)[place]


# --- rows --------------------------------------------------------------------------------------
def test_matured_rows_by_hand():
    # At once, in the window, one second too late, never; windows of a day.
    log = make_log([10, 20, 30, 40], [10, 20 + DAY - 1, 30 + DAY, -1], [11, -1, -1, -1])
    rows = deliver(log, WINDOWS, RULES["matured"])
    assert rows.time.tolist() == [10 + DAY, 20 + DAY, 30 + DAY, 40 + DAY]
    assert rows.pay_label.tolist() == [1, 1, 0, 0]
    assert rows.conversion_row.all()
    assert rows.click.tolist() == [0, 1, 2, 3]


@ALL
def test_clicks_become_rows_once_their_windows_have_closed(name):
    predictor, log = fitted(name), clicks()
    for k in range(SPLIT.num_segments):
        predictor.partial_fit(stream().window(k))
        closed = log.click_time + DAY
        due = (closed >= SPLIT.start_second) & (closed <= SPLIT.last_second(k))
        assert predictor.trained_rows == due.sum()
    assert predictor.trained_rows > 400


def rows_of(predictor, window):
    """Training rows that a window brings."""
    predictor.open.update(window)
    rows = predictor._new_rows(predictor.rule)
    predictor.open.close()
    return rows


def test_rows_carry_final_labels():
    predictor, plays, log = fitted("shared_mlp"), stream(), clicks()
    rows = [rows_of(predictor, plays.window(k)) for k in range(SPLIT.num_segments)]
    label = np.concatenate([row.label.numpy() for row in rows])
    closed = log.click_time + DAY
    due = (closed >= SPLIT.start_second) & (closed <= SPLIT.last_second(SPLIT.num_segments - 1))
    np.testing.assert_array_equal(label, final_labels(log, WINDOWS).y[due])
    ids = predictor.fields.encode(log.features[due])
    assert torch.equal(torch.cat([row.ids for row in rows]), ids)


def test_rows_of_impressions_are_those_won():
    predictor = fitted("shared_mlp", "ctr", follow=False)
    features = clicks().features[:5]
    ids = np.arange(5)
    mask = np.array([1, 1, 1, 1, 0], np.int8)
    seen = Impressions(ids, ids / 10, features, np.zeros(5, np.int32), mask)
    won = np.array([True, False, True, True, True])
    clicked = np.array([True, False, False, True, False])
    result = AuctionResult(won, np.ones(5), clicked, np.zeros(5, np.int8))
    empty = stream("ctr").window(0).events
    empty = type(empty)._make(column[:0] for column in empty)
    none = Impressions._make(column[:0] for column in seen)
    rows = rows_of(predictor, Window(1.0, seen, result, none, empty))
    assert rows.label.tolist() == [1, 0, 1]
    assert torch.equal(rows.ids, predictor.fields.encode(features[[0, 2, 3]]))
    assert rows_of(predictor, Window(2.0, none, result._make(c[:0] for c in result), none, empty))[
        0
    ].shape == (0, 4)


def test_impressions_of_a_window_are_trained_on_at_once():
    predictor, log = fitted("shared_mlp", "ctr"), shown()
    for k in range(SPLIT.num_segments):
        predictor.partial_fit(stream("ctr").window(k))
        due = (log.time >= SPLIT.start_second) & (log.time <= SPLIT.last_second(k))
        assert predictor.trained_rows == due.sum()


def test_windows_of_the_past_are_refused():
    predictor, plays = fitted("shared_mlp", "ctr"), stream("ctr")
    window = plays.window(1)
    predictor.partial_fit(window)
    says = f"window must end at or after second {SPLIT.last_second(1)}, ends at"
    for old in (plays.window(0), window._replace(now_hours=1.0)):
        with pytest.raises(ValueError, match=says):
            predictor.partial_fit(old)
    quiet = plays.window(0)  # impressions without clicks
    quiet = quiet._replace(events=type(quiet.events)._make(column[:0] for column in quiet.events))
    with pytest.raises(ValueError, match=says):
        predictor.partial_fit(quiet)
    trained = predictor.trained_rows
    predictor.partial_fit(plays.window(2))
    assert predictor.trained_rows > trained
    with pytest.raises(ValueError, match=f"second {SPLIT.start_second - 1}, ends at 3600"):
        fitted("shared_mlp", "ctr").partial_fit(window._replace(now_hours=1.0))
    fitted("shared_mlp", "ctr", follow=False).partial_fit(window._replace(now_hours=1.0))


# --- predict, partial_fit ----------------------------------------------------------------------
@ALL
@BOTH
def test_predict_is_pure(name, target, tmp_path):
    predictor = fitted(name, target)
    predictor.partial_fit(stream(target).window(0))
    before, features = state(predictor, tmp_path), clicks().features
    first = means(predictor, features)
    np.testing.assert_array_equal(means(predictor, features), first)
    np.testing.assert_allclose(means(predictor, features[:9]), first[:9], rtol=1e-5)
    assert means(predictor, features[:0]).shape == (0,)
    assert differing(before, state(predictor, tmp_path)) == set()
    assert predictor.main.training


@ALL
@BOTH
def test_empty_windows_change_nothing_but_the_time(name, target, tmp_path):
    predictor, plays = fitted(name, target, follow=False), stream(target)
    before, window = state(predictor, tmp_path), plays.window(0)

    def nothing(record):
        return type(record)._make(column[:0] for column in record)

    parts = (nothing(part) for part in window[1:])
    assert predictor.partial_fit(Window(window.now_hours, *parts)) is predictor
    assert differing(before, state(predictor, tmp_path)) <= {"open/moments"}


@ALL
@BOTH
def test_windows_are_left_alone(name, target):
    predictor, window = fitted(name, target), stream(target).window(1)
    parts = [np.copy(column) for part in window[1:] for column in part]
    predictor.partial_fit(window)
    for column, copy in zip((c for part in window[1:] for c in part), parts, strict=True):
        np.testing.assert_array_equal(column, copy)


@ALL
@BOTH
def test_scenes_never_seen_have_estimates(name, target):
    predictor, features = fitted(name, target), clicks().features[:50].copy()
    unknown = []
    for scene in (S, -1, 10**9, np.iinfo(np.int32).min):
        features[:, SCENE] = scene
        unknown.append(means(predictor, features))
    assert all((found == unknown[0]).all() for found in unknown)
    assert ((unknown[0] > 0) & (unknown[0] < 1)).all()


@ALL
def test_rows_of_no_known_scene_are_trained_on(name):
    predictor, log = fitted(name, "ctr"), shown()
    window = stream("ctr").window(0)
    strange = window.impressions.features.copy()
    strange[:, SCENE] = S
    predictor.partial_fit(
        window._replace(impressions=window.impressions._replace(features=strange))
    )
    assert predictor.trained_rows == window.impressions.impression_id.size > 32
    assert np.isfinite(predictor.losses).all()
    assert np.isfinite(means(predictor, log.features[:50])).all()


@ALL
def test_untrained_predictors_ask_for_fit(name):
    predictor = new_predictor(name)
    with pytest.raises(RuntimeError, match=rf"{name}: call fit\(history\)"):
        predictor.partial_fit(stream().window(0))
    with pytest.raises(RuntimeError, match=rf"{name}: call fit\(history\)"):
        predictor.predict(impressions(clicks().features[:3]))


# --- parameters --------------------------------------------------------------------------------
@ALL
def test_parameters_are_those_of_the_network(name):
    predictor = fitted(name)
    found = predictor.num_parameters
    assert found.total == num_parameters(predictor.main.net)
    assert 0 < found.tables < found.total
    assert (
        found.per_scene
        == {
            # Embedding 2 and bias 1.
            **dict.fromkeys(BY_EMBEDDING, 3),
            "shared_mlp": 0,
            # Tower 8-4-1.
            "shared_bottom": 41,
            # The same, and a gate over 4 experts of 6 inputs.
            "mmoe": 41 + 24,
            # The same; per level an expert 6-8 or 8-8 and a gate over 3; a row of the shared gate.
            "ple": 41 + (56 + 18) + (72 + 24) + 6,
            # Weights and biases of 6-8-4-1, scales and shifts of 6 columns, an embedding.
            "star": (48 + 32 + 4) + (8 + 4 + 1) + 12 + 2,
            # The same layers, and embeddings of 6, 5 and 4 ids with an unknown one each.
            "one_per_scene": 56 + 36 + 5 + 2 * 18,
        }[name]
    )
