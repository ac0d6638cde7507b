import numpy as np
import pytest
from scipy.special import expit

from predictors.calibration import Line, fit_line


def test_line_by_hand():
    assert Line().apply([0.2, 0.9]) == pytest.approx([0.2, 0.9])
    # Log-odds of .75 are ln 3; twice that are ln 9; less ln 9: even odds.
    assert Line(-np.log(9), 2.0).apply([0.75]) == pytest.approx([0.5])


def test_line_of_overconfident_predictions_is_found():
    rng = np.random.default_rng(0)
    z = rng.normal(-2.5, 1.2, 100_000)
    labels = rng.random(z.size) < expit(0.3 + 0.8 * z)
    found = fit_line(labels, expit(z))
    assert found.slope == pytest.approx(0.8, abs=0.02)
    assert found.intercept == pytest.approx(0.3, abs=0.05)
    # Likelihood equations: sums of predictions and of their products with z are those of labels.
    p = found.apply(expit(z))
    assert p.sum() == pytest.approx(labels.sum(), rel=1e-9)
    assert p @ z == pytest.approx(labels @ z, rel=1e-9)


def test_predictions_all_alike_get_the_mean():
    assert fit_line([0, 0, 0, 1], [0.1] * 4).apply([0.1]) == pytest.approx([0.25])


@pytest.mark.parametrize(
    ("labels", "probabilities", "text"),
    [
        ([0, 1], [0.1], "one length"),
        ([0, 2], [0.1, 0.2], "labels must be 0 or 1"),
        ([1, 1], [0.1, 0.2], "both outcomes"),
        ([], [], "labels"),
        ([0, 1], [0.1, 1.2], "probability must be in"),
    ],
)
def test_wrong_input_is_named(labels, probabilities, text):
    with pytest.raises(ValueError, match=text):
        fit_line(labels, probabilities)
