import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adsim.datasets.farmhash import fingerprint64, hash_bytes

TEXT = "".join(chr(33 + (7 * i) % 90) for i in range(300))


@pytest.mark.parametrize(
    ("size", "fingerprint"),  # of the first characters of TEXT, from the reference implementation
    [
        (0, 11160318154034397263),
        (3, 1502982227347875767),
        (7, 17208155771686137090),
        (12, 17992971295615183265),
        (16, 9265934164062552586),
        (17, 7191860352405642139),
        (25, 12107617023137978680),
        (33, 5848330678568374769),
        (50, 12622089766946868036),
        (64, 16761682396498933202),
        (65, 11254439236561020538),
        (100, 4717993629400912386),
        (128, 6164712265338775278),
        (129, 1138458046925123604),
        (200, 10889871528942081555),
    ],
)
def test_fingerprint_agrees_with_the_reference(size, fingerprint):
    assert fingerprint64(TEXT[:size]) == fingerprint


@pytest.mark.parametrize(
    ("text", "signed"),  # published examples, as signed integers
    [
        ("1footrue", -1541654101129638711),
        ("2applefalse", 2794438866806483259),
        ("3true", -4880158226897771312),
    ],
)
def test_fingerprint_of_published_examples(text, signed):
    assert fingerprint64(text) == signed % 2**64


def test_fingerprint_hashes_utf8():
    assert fingerprint64("é漢" * 9) == fingerprint64(("é漢" * 9).encode())


@given(st.binary(max_size=200), st.binary(max_size=70), st.binary(max_size=70))
def test_hash_depends_on_its_range_only(before, inside, after):
    data = np.frombuffer(before + inside + after, dtype=np.uint8)
    assert int(hash_bytes(data, len(before), len(inside))) == fingerprint64(inside)


@pytest.mark.parametrize("size", [1, 3, 4, 8, 16, 17, 32, 33, 64, 65, 128, 129, 200])
def test_every_bit_counts(size):
    base = bytes(range(size))
    flipped = {base}
    for i in range(8 * size):
        changed = bytearray(base)
        changed[i // 8] ^= 1 << i % 8
        flipped.add(bytes(changed))
    assert len({fingerprint64(data) for data in flipped}) == 8 * size + 1
