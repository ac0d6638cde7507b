"""FarmHash Fingerprint64: the 64-bit hash that turns feature texts into bucket ids.

Source: G. Pike, FarmHash (github.com/google/farmhash), farmhashna::Hash64, which never changes
between versions or machines. Bytes are read as little-endian words, arithmetic is modulo 2**64.
"""

# ruff: noqa: ANN001, ANN202 - compiled functions: numba infers their types

import numpy as np
from numba import njit
from numpy.typing import NDArray

_U64 = np.uint64
_K0, _K1, _K2 = _U64(0xC3A5C85C97CB3127), _U64(0xB492B66FBE98F273), _U64(0x9AE16A3B2F90404F)
_SEED = _U64(81)
_WORD = _U64(64)

__all__ = ["fingerprint64", "hash_bytes"]


def fingerprint64(text: str | bytes) -> int:
    """Fingerprint of a text (as UTF-8) or of bytes: an integer in [0, 2**64)."""
    raw = text.encode("utf-8") if isinstance(text, str) else text
    return int(hash_bytes(np.frombuffer(raw, dtype=np.uint8), 0, len(raw)))


@njit(cache=True, nogil=True)
def hash_bytes(data: NDArray[np.uint8], begin: int, size: int) -> np.uint64:
    """Fingerprint of `data[begin : begin + size]`; the range must lie inside the array."""
    start, length = _U64(begin), _U64(size)
    if size <= 16:
        return _up_to_16(data, start, length)
    mul = _K2 + length * _U64(2)
    if size <= 32:
        return _up_to_32(data, start, length, mul)
    if size <= 64:
        return _up_to_64(data, start, length, mul)
    return _longer(data, start, length)


@njit
def _word32(data, at):
    return (
        _U64(data[at])
        | _U64(data[at + _U64(1)]) << _U64(8)
        | _U64(data[at + _U64(2)]) << _U64(16)
        | _U64(data[at + _U64(3)]) << _U64(24)
    )


@njit
def _word(data, at):
    return _word32(data, at) | _word32(data, at + _U64(4)) << _U64(32)


@njit
def _rotate(value, shift):
    return value >> _U64(shift) | value << _U64(64 - shift)


@njit
def _shift_mix(value):
    return value ^ (value >> _U64(47))


@njit
def _combine(u, v, mul):
    """HashLen16 of the source."""
    a = _shift_mix((u ^ v) * mul)
    return _shift_mix((v ^ a) * mul) * mul


@njit
def _up_to_16(data, start, length):
    last = start + length
    if length >= _U64(8):
        mul = _K2 + length * _U64(2)
        a = _word(data, start) + _K2
        b = _word(data, last - _U64(8))
        return _combine(_rotate(b, 37) * mul + a, (_rotate(a, 25) + b) * mul, mul)
    if length >= _U64(4):
        low = length + (_word32(data, start) << _U64(3))
        return _combine(low, _word32(data, last - _U64(4)), _K2 + length * _U64(2))
    if length > _U64(0):
        middle = _U64(data[start + (length >> _U64(1))])
        y = _U64(data[start]) + (middle << _U64(8))
        z = length + (_U64(data[last - _U64(1)]) << _U64(2))
        return _shift_mix(y * _K2 ^ z * _K0) * _K2
    return _K2


@njit
def _ends(data, start, length, mul, first):
    """The two sums over the first and the last 16 bytes that lengths 17 to 64 begin with."""
    last = start + length
    a = _word(data, start) * first
    b = _word(data, start + _U64(8))
    c = _word(data, last - _U64(8)) * mul
    d = _word(data, last - _U64(16)) * _K2
    return a, _rotate(a + b, 43) + _rotate(c, 30) + d, a + _rotate(b + _K2, 18) + c


@njit
def _up_to_32(data, start, length, mul):
    _, u, v = _ends(data, start, length, mul, _K1)
    return _combine(u, v, mul)


@njit
def _up_to_64(data, start, length, mul):
    last = start + length
    a, y, v = _ends(data, start, length, mul, _K2)
    z = _combine(y, v, mul)
    e = _word(data, start + _U64(16)) * mul
    f = _word(data, start + _U64(24))
    g = (y + _word(data, last - _U64(32))) * mul
    h = (z + _word(data, last - _U64(24))) * mul
    return _combine(_rotate(e + f, 43) + _rotate(g, 30) + h, e + _rotate(f + a, 18) + g, mul)


@njit
def _weak(data, at, a, b):
    """WeakHashLen32WithSeeds of the source: mixes 32 bytes into two words."""
    w, z = _word(data, at), _word(data, at + _U64(24))
    a += w
    b = _rotate(b + a + z, 21)
    c = a
    a += _word(data, at + _U64(8)) + _word(data, at + _U64(16))
    return a + z, b + _rotate(a, 44) + c


@njit
def _round(data, at, mul, weight, x, y, z, v0, v1, w0, w1):
    """One block of 64 bytes; `weight` is 1 but for the last block."""
    x = _rotate(x + y + v0 + _word(data, at + _U64(8)), 37) * mul
    y = _rotate(y + v1 + _word(data, at + _U64(48)), 42) * mul
    x ^= w1 * weight
    y += v0 * weight + _word(data, at + _U64(40))
    z = _rotate(z + w0, 33) * mul
    v0, v1 = _weak(data, at, v1 * mul, x + w0)
    w0, w1 = _weak(data, at + _U64(32), z + w1, y + _word(data, at + _U64(16)))
    return z, y, x, v0, v1, w0, w1


@njit
def _longer(data, start, length):
    y = _SEED * _K1 + _U64(113)
    z = _shift_mix(y * _K2 + _U64(113)) * _K2
    x = _SEED * _K2 + _word(data, start)
    v0 = v1 = w0 = w1 = _U64(0)
    at = start
    for _ in range((length - _U64(1)) // _WORD):
        x, y, z, v0, v1, w0, w1 = _round(data, at, _K1, _U64(1), x, y, z, v0, v1, w0, w1)
        at += _WORD
    mul = _K1 + ((z & _U64(255)) << _U64(1))
    w0 += (length - _U64(1)) & _U64(63)
    v0 += w0
    w0 += v0
    at = start + length - _WORD  # the last 64 bytes, which may overlap the blocks before
    x, y, z, v0, v1, w0, w1 = _round(data, at, mul, _U64(9), x, y, z, v0, v1, w0, w1)
    first = _combine(v0, w0, mul) + _shift_mix(y) * _K0 + z
    return _combine(first, _combine(v1, w1, mul) + x, mul)
