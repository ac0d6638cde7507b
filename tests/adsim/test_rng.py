import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit, vectorize
from scipy.special import ndtri

from adsim.rng import Stream, derive, generator, normal_ppf, philox, to_uniform, uniforms, words

U64_MAX = 2**64 - 1


@vectorize(["float64(float64)"], nopython=True)
def compiled_normal_ppf(p):
    return normal_ppf(p)


@njit
def compiled_to_uniform(word):
    return to_uniform(word)


@njit
def compiled_philox(seed, stream, counter, block):
    return philox(seed, stream, counter, block)


def numpy_philox(seed, stream, counter, block):
    """Our four words of (counter, block) from numpy, which advances its counter before use."""
    value = (counter + (block << 64) - 1) % 2**256
    state = np.array([(value >> (64 * j)) & U64_MAX for j in range(4)], dtype=np.uint64)
    key = np.array([seed, stream], dtype=np.uint64)
    return np.random.Philox(key=key, counter=state).random_raw(4)


@pytest.mark.parametrize(
    ("seed", "stream", "counter", "block"),
    [
        (0, 0, 0, 0),  # numpy's counter wraps round to 2**256 - 1
        (0, 0, 1, 0),
        (1, Stream.TRAFFIC, 12345, 0),
        (2**63 - 1, Stream.OUTCOME, 2**40, 7),
        (U64_MAX, Stream.DRIFT, 2**63 - 1, 2**32),
        (42, Stream.MARKET, 0, 3),
    ],
)
def test_words_are_bit_equal_to_numpy_philox(seed, stream, counter, block):
    ours = words(seed, stream, np.array([counter]), block)[0]
    assert ours.tolist() == numpy_philox(seed, stream, counter, block).tolist()


@given(
    seed=st.integers(0, U64_MAX),
    stream=st.integers(0, U64_MAX),
    counter=st.integers(0, U64_MAX),
    block=st.integers(0, U64_MAX),
)
@settings(deadline=None, derandomize=True, max_examples=300)
def test_philox_is_bit_equal_to_numpy_on_the_whole_range(seed, stream, counter, block):
    ours = compiled_philox(*(np.uint64(x) for x in (seed, stream, counter, block)))
    assert list(ours) == numpy_philox(seed, stream, counter, block).tolist()


def test_words_of_consecutive_ids_are_numpys_stream():
    # Counters 1..1000 are the first 4000 words of a fresh numpy generator of that key.
    key = np.array([2026, Stream.OUTCOME], dtype=np.uint64)
    expected = np.random.Philox(key=key).random_raw(4000).reshape(1000, 4)
    assert (words(2026, Stream.OUTCOME, np.arange(1, 1001)) == expected).all()


def test_words_differ_between_seeds_streams_ids_and_blocks():
    draws = [
        words(seed, stream, np.arange(50), block)
        for seed in (1, 2)
        for stream in (1, 2)
        for block in (0, 1)
    ]
    assert np.unique(np.stack(draws)).size == 2 * 2 * 2 * 50 * 4


def test_uniforms_do_not_depend_on_batching():
    ids = np.array([7, 3, 1_000_000, 3, 0])
    batch = uniforms(9, Stream.TRAFFIC, ids, 2)
    single = np.concatenate([uniforms(9, Stream.TRAFFIC, ids[i : i + 1], 2) for i in range(5)])
    assert (batch == single).all()
    assert (batch[1] == batch[3]).all()


def test_uniforms_have_the_moments_of_a_uniform():
    u = uniforms(3, Stream.MARKET, np.arange(100_000))  # 400 000 draws
    assert u.min() > 0.0
    assert u.max() < 1.0
    # Standard errors: sqrt(1/12 / 4e5) = 4.6e-4 and sqrt(1/180 / 4e5) = 1.2e-4; four of each.
    assert u.mean() == pytest.approx(0.5, abs=1.8e-3)
    assert u.var() == pytest.approx(1 / 12, abs=4.8e-4)
    # Words of one block are uncorrelated: standard error 1e5 ** -0.5 = 3.2e-3.
    assert np.abs(np.corrcoef(u.T) - np.eye(4)).max() < 4 * 3.2e-3


def test_uniforms_are_the_words_scaled():
    raw = words(5, Stream.TRAFFIC, np.arange(100))
    compiled = np.array([[compiled_to_uniform(word) for word in row] for row in raw])
    assert (uniforms(5, Stream.TRAFFIC, np.arange(100)) == compiled).all()


@pytest.mark.parametrize("word", [0, 1, 2**63, U64_MAX - 2**11, U64_MAX])
def test_to_uniform_lies_strictly_between_0_and_1(word):
    u = compiled_to_uniform(np.uint64(word))
    assert 0.0 < u < 1.0
    assert u == pytest.approx(word / 2**64, abs=2.0**-52)


@pytest.mark.parametrize(
    "p",
    [
        np.linspace(0.001, 0.999, 999),  # centre: |p - 1/2| <= .425 and just outside
        10.0 ** -np.arange(1.0, 300.0),  # lower tail, both branches (r <= 5 is p > 1.4e-11)
        1.0 - 2.0 ** -np.arange(2.0, 54.0),  # upper tail up to the largest double below 1
        0.075 + np.array([-1e-15, 0.0, 1e-15]),  # at the border of the centre
    ],
    ids=["centre", "lower", "upper", "border"],
)
def test_normal_ppf_equals_scipy(p):
    expected = ndtri(p)
    np.testing.assert_allclose(compiled_normal_ppf(p), expected, rtol=1e-14, atol=1e-16)


def test_normal_ppf_is_odd():
    p = np.arange(1, 512) / 1024  # p and 1 - p are exact
    assert (compiled_normal_ppf(p) == -compiled_normal_ppf(1 - p)).all()
    assert compiled_normal_ppf(0.5) == 0.0


@pytest.mark.parametrize("word", [0, U64_MAX])
def test_normal_ppf_of_an_extreme_word_is_finite(word):
    # 2**-54 and its mirror image: about -8.3 and 8.3 standard deviations.
    x = compiled_normal_ppf(compiled_to_uniform(np.uint64(word)))
    assert 8.0 < abs(x) < 8.5


def test_derive_is_deterministic_and_within_63_bits():
    seeds = {
        derive(seed, stream, index)
        for seed in (0, 1, 2**63 - 1)
        for stream in (Stream.HISTORY, Stream.WORLD_STRUCTURE)
        for index in range(10)
    }
    assert len(seeds) == 60
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive(1, Stream.HISTORY) == derive(1, Stream.HISTORY, 0)
    assert derive(1, Stream.HISTORY, 4) == int(words(1, Stream.HISTORY, np.array([4]))[0, 0]) >> 1


def test_generator_is_a_function_of_seed_and_stream():
    first = generator(11, Stream.STRUCTURE).random(5)
    assert (generator(11, Stream.STRUCTURE).random(5) == first).all()
    assert not (generator(12, Stream.STRUCTURE).random(5) == first).any()
    assert not (generator(11, Stream.DRIFT).random(5) == first).any()
