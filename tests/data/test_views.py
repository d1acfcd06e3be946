import numpy as np
import pytest
from PIL import Image

from vqlab.data import CenterViews, RandomViews, TenCropViews, TrainTransform
from vqlab.data.transforms import CenterCrop


def numbered(side):
    """A square image whose pixel at (y, x) says so in its red and green."""
    y, x = np.mgrid[:side, :side]
    return Image.fromarray(np.stack([y, x, 0 * x], -1).astype(np.uint8))


def place(crop):
    """(top, left) of a crop of `numbered`, and whether it is mirrored."""
    mirrored = crop[0, 0, 1] > crop[0, -1, 1]
    first, last = (-1, 0) if mirrored else (0, -1)
    height, width, _ = crop.shape
    top, left = (int(n) for n in crop[0, first, :2])
    # Not resized: every pixel is its neighbour's.
    assert crop[-1, last].tolist() == [top + height - 1, left + width - 1, 0]
    return top, left, bool(mirrored)


@pytest.mark.parametrize(
    ("size", "scale", "side", "middle"),
    [
        # int(20 * 1.1) = 22 leaves 2 pixels, int(30 * 1.1) = 33 leaves 3, of which half is 1.5:
        # Python rounds it to 2, as torchvision does, and 0.5, of 21, to 0.
        (20, 1.1, 22, 1),
        (30, 1.1, 33, 2),
        (20, 1.05, 21, 0),
        (20, 1.0, 20, 0),
    ],
)
def test_ten_crops_lie_where_torchvision_has_them(size, scale, side, middle):
    views = TenCropViews(size, (scale,))
    crop = views.of_image(numbered(side), record=0)
    end = side - size
    corners = [(0, 0), (0, end), (end, 0), (end, end), (middle, middle)]
    assert [place(crop(view)) for view in range(10)] == [
        (*corner, mirrored) for mirrored in (False, True) for corner in corners
    ]
    assert views.num_views == 10 and crop(3).shape == (size, size, 3)


def test_the_sides_of_the_papers_sets():
    # 281 and 268 of 256 pixels, 422 and 403 of 384; the centre at 12.5 -> 12, 6, 19, 9.5 -> 10.
    for size, scale, end, middle in (
        (256, 1.1, 25, 12),
        (256, 1.05, 12, 6),
        (384, 1.1, 38, 19),
        (384, 1.05, 19, 10),
    ):
        pixels = np.zeros((size + end, size + end, 3), np.uint8)
        pixels[end, end] = 1  # the first pixel of the last corner's crop
        pixels[middle, middle, 0] = 2
        crop = TenCropViews(size, (scale,)).of_image(Image.fromarray(pixels), 0)
        assert crop(3)[0, 0].tolist() == [1, 1, 1] and crop(4)[0, 0, 0] == 2


def test_larger_images_are_cropped_as_adm_does_first():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8))
    views = TenCropViews(20, (1.1, 1.05))
    crop = views.of_image(image, 0)
    assert views.num_views == 20
    np.testing.assert_array_equal(crop(0), CenterCrop(22)(image)[:20, :20])
    np.testing.assert_array_equal(crop(13), CenterCrop(21)(image)[1:, 1:])
    np.testing.assert_array_equal(crop(18), crop(13)[:, ::-1])
    assert views.describe() == {
        "crop": "ten",
        "flip": True,
        "num_views": 20,
        "scales": [1.1, 1.05],
    }


def test_settings_out_of_range():
    with pytest.raises(ValueError, match="ten crops at 0.9 times the size: choose 1 or more"):
        TenCropViews(16, (1.1, 0.9))
    with pytest.raises(ValueError, match="must be some, each once"):
        TenCropViews(16, (1.1, 1.1))
    with pytest.raises(ValueError, match="0 random views"):
        RandomViews(TrainTransform(16), num_views=0, seed=0)


def test_other_views_are_what_their_transforms_make():
    image = numbered(40)
    center = CenterViews(16, flip=True).of_image(image, 3)
    np.testing.assert_array_equal(center(0), CenterCrop(16)(image))
    np.testing.assert_array_equal(center(1), center(0)[:, ::-1])
    views = RandomViews(TrainTransform(16), 3, seed=1)
    crops = [views.of_image(image, record)(view) for record, view in ((0, 0), (0, 1), (1, 0))]
    assert len(np.unique(np.reshape(crops, (3, -1)), axis=0)) == 3
    np.testing.assert_array_equal(views.of_image(image, 0)(1), crops[1])
