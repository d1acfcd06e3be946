"""Small images on disk."""

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def image_folder(tmp_path):
    """Function that fills tmp_path with flat PNGs of 24 x 32 noise; `corrupt` are their numbers."""

    def make(count, corrupt=()):
        rng = np.random.default_rng(0)
        for number in range(count):
            path = tmp_path / f"{number:03}.png"
            pixels = rng.integers(0, 256, (24, 32, 3), np.uint8)
            Image.fromarray(pixels).save(path)
            if number in corrupt:
                path.write_bytes(path.read_bytes()[:100])
        return str(tmp_path)

    return make
