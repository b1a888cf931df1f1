"""The checksum of TensorFlow's checkpoints."""

from __future__ import annotations

import numpy as np
import pytest

from bertonnx.exporters.checkpoint.tensorflow.crc32c import crc32c, masked
from tests.exporters.checkpoint.tensorflow import bundles


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
        (b"123456789", 0xE3069283),
    ],
)
def test_the_sums_of_the_standard(data: bytes, wanted: int) -> None:
    # RFC 3720, appendix B.4.
    assert crc32c(data) == wanted


def test_long_texts_have_the_sums_that_one_byte_after_another_gives() -> None:
    # Around the lengths at which it begins to work in columns, and with any rest.
    generator = np.random.default_rng(5)
    for length in (0, 3, 255, 256, 257, 260, 263, 1021, 16383, 16384, 16387, 16388, 16389, 32771, 50_001):
        data = generator.integers(0, 256, length, dtype=np.uint8)
        assert masked(crc32c(data)) == bundles.crc32c(data.tobytes()), length
        assert crc32c(data[length // 3 :], crc32c(data[: length // 3])) == crc32c(data.tobytes())
