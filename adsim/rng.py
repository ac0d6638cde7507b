"""Counter-based randomness: every draw is a pure function of (seed, stream, id, block).

Philox4x64-10 (Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011)
with key (seed, stream) and counter (id, block, 0, 0). There is no generator state, so what happens
to impression i depends neither on bids, nor on batching, nor on how many draws came before.
"""

# ruff: noqa: ANN001, ANN201, ANN202 - compiled functions: numba infers their types

from enum import IntEnum

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from adsim.types import FloatArray, IntArray

_U64 = np.uint64
_M0, _M1 = _U64(0xD2E7470EE14C6C93), _U64(0xCA5A826395121157)
_W0, _W1 = _U64(0x9E3779B97F4A7C15), _U64(0xBB67AE8584CAA73B)
_ZERO = _U64(0)
_SHIFT = _U64(12)
_SCALE = 2.0**-52  # with one bit less than a float64 holds, the centre of every cell is exact


# Impression i of tick t has the id t * ID_STRIDE + i, whatever the number of slots.
ID_STRIDE = 2**24


class Stream(IntEnum):
    """Named streams; the words of their blocks are listed where they are drawn."""

    ARRIVALS = 1  # number of impressions of a tick (id = tick)
    TRAFFIC = 2  # who arrives (id = impression)
    MARKET = 3  # price to beat and platform noise
    EXPOSURE = 4  # which slots are seen
    OUTCOME = 5  # click, purchases, refunds and their delays
    RIVAL_CLICK = 6  # clicks of other advertisers, if they pay per click
    STRUCTURE = 7  # entities and hidden effects (numpy generator)
    DRIFT = 8  # innovations of the hidden effects (id = field value, block = step)
    HISTORY = 9  # turns the structure seed into the episode seed of the price history
    WORLD_STRUCTURE = 10  # structure seed of an episode with randomize_structure
    CAMPAIGN = 11  # seeds of the other campaigns that share an auction


@intrinsic
def _mulhi(typingctx, a, b):
    """High 64 bits of the 128-bit product."""

    def codegen(context, builder, signature, args):
        wide = ir.IntType(128)
        product = builder.mul(builder.zext(args[0], wide), builder.zext(args[1], wide))
        return builder.trunc(builder.lshr(product, ir.Constant(wide, 64)), ir.IntType(64))

    return types.uint64(types.uint64, types.uint64), codegen


@njit
def philox(seed, stream, counter, block):
    """Four uint64 words of block `block` of `counter` (all arguments uint64)."""
    c0, c1, c2, c3 = counter, block, _ZERO, _ZERO
    k0, k1 = seed, stream
    for _ in range(10):
        low0, low1 = _M0 * c0, _M1 * c2
        high0 = _mulhi(_M0, c0)  # pyright: ignore[reportCallIssue] - numba passes the context
        high1 = _mulhi(_M1, c2)  # pyright: ignore[reportCallIssue] - as above
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0 += _W0
        k1 += _W1
    return c0, c1, c2, c3


@njit
def to_uniform(word):
    """A uint64 word as a uniform in (0, 1): the centre of one of 2**52 cells."""
    return (float(word >> _SHIFT) + 0.5) * _SCALE


@njit(cache=True, nogil=True)
def _fill(seed, stream, ids, block, out):
    for i in range(ids.size):
        words = philox(seed, stream, _U64(ids[i]), block)
        for j in range(4):
            out[i, j] = words[j]


def words(seed: int, stream: int, ids: IntArray, block: int = 0) -> NDArray[np.uint64]:
    """The four 64-bit words (N, 4) of a block for each id.

    Args:
        seed: 0 .. 2**64 - 1.
        stream: a `Stream`.
        ids: (N,) non-negative counters.
        block: which four words of the id's sequence.
    """
    ids = np.ascontiguousarray(ids, dtype=np.int64)
    out = np.empty((ids.size, 4), dtype=np.uint64)
    _fill(_U64(seed), _U64(stream), ids, _U64(block), out)
    return out


def uniforms(seed: int, stream: int, ids: IntArray, block: int = 0) -> FloatArray:
    """Uniforms (N, 4) in (0, 1) for each id; arguments as `words`."""
    return ((words(seed, stream, ids, block) >> _SHIFT).astype(np.float64) + 0.5) * _SCALE


def derive(seed: int, stream: int, index: int = 0) -> int:
    """A seed in [0, 2**63) that is a pure function of another seed."""
    return int(words(seed, stream, np.array([index]))[0, 0] >> _U64(1))


def campaign_seeds(seed: int, count: int) -> list[int]:
    """Episode seeds of the campaigns that share an auction; the first one's is the episode's."""
    return [seed, *(derive(seed, Stream.CAMPAIGN, index) for index in range(1, count))]


def generator(seed: int, stream: int) -> np.random.Generator:
    """A numpy generator for set-up work, on its own stream of `seed`."""
    return np.random.Generator(np.random.Philox(key=np.array([seed, stream], dtype=np.uint64)))


@njit
def normal_ppf(p):
    """Standard normal quantile, relative error about 1e-16 (Wichura 1988, AS 241, PPND16)."""
    q = p - 0.5
    if abs(q) <= 0.425:
        r = 0.180625 - q * q
        num = 2.5090809287301226727e3
        for c in (
            *(3.3430575583588128105e4, 6.7265770927008700853e4, 4.5921953931549871457e4),
            *(1.3731693765509461125e4, 1.9715909503065514427e3, 1.3314166789178437745e2),
            3.3871328727963666080e0,
        ):
            num = num * r + c
        den = 5.2264952788528545610e3
        for c in (
            *(2.8729085735721942674e4, 3.9307895800092710610e4, 2.1213794301586595867e4),
            *(5.3941960214247511077e3, 6.8718700749205790830e2, 4.2313330701600911252e1),
            1.0,
        ):
            den = den * r + c
        return q * num / den
    r = np.sqrt(-np.log(p if q < 0 else 1.0 - p))
    if r <= 5.0:
        r -= 1.6
        num = 7.74545014278341407640e-4
        for c in (
            *(2.27238449892691845833e-2, 2.41780725177450611770e-1, 1.27045825245236838258e0),
            *(3.64784832476320460504e0, 5.76949722146069140550e0, 4.63033784615654529590e0),
            1.42343711074968357734e0,
        ):
            num = num * r + c
        den = 1.05075007164441684324e-9
        for c in (
            *(5.47593808499534494600e-4, 1.51986665636164571966e-2, 1.48103976427480074590e-1),
            *(6.89767334985100004550e-1, 1.67638483018380384940e0, 2.05319162663775882187e0),
            1.0,
        ):
            den = den * r + c
    else:
        r -= 5.0
        num = 2.01033439929228813265e-7
        for c in (
            *(2.71155556874348757815e-5, 1.24266094738807843860e-3, 2.65321895265761230930e-2),
            *(2.96560571828504891230e-1, 1.78482653991729133580e0, 5.46378491116411436990e0),
            6.65790464350110377720e0,
        ):
            num = num * r + c
        den = 2.04426310338993978564e-15
        for c in (
            *(1.42151175831644588870e-7, 1.84631831751005468180e-5, 7.86869131145613259100e-4),
            *(1.48753612908506148525e-2, 1.36929880922735805310e-1, 5.99832206555887937690e-1),
            1.0,
        ):
            den = den * r + c
    return -num / den if q < 0 else num / den
