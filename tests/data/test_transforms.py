import numpy as np
import pytest
from PIL import Image

from vqlab.data.transforms import CROPS, MAX_CROPS, CenterCrop, StoredCrop, TrainTransform, to_float


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def test_to_float_maps_bytes_onto_minus_one_to_one():
    images = to_float(np.array([0, 51, 255], np.uint8))
    assert images.dtype == np.float32
    np.testing.assert_allclose(images, [-1, -0.6, 1], atol=1e-7)


def test_center_crop_halves_with_a_box_filter():
    # 4x8 -> 2x4 by means of 2x2 blocks; its shorter side is 2 already; columns 1 and 2 remain.
    blocks = np.array([[0, 10, 20, 30], [40, 50, 60, 70]])
    pixels = np.repeat(np.repeat(blocks, 2, 0), 2, 1).astype(np.uint8)
    pixels[0, 2] += 4  # the mean of 14, 10, 10, 10 is 11
    crop = CenterCrop(2)(Image.fromarray(np.stack([pixels] * 3, -1)))
    np.testing.assert_array_equal(crop[..., 0], [[11, 20], [50, 60]])


def test_center_crop_of_an_exact_size_is_the_middle():
    pixels = noise(8, 13)
    np.testing.assert_array_equal(CenterCrop(8)(Image.fromarray(pixels)), pixels[:, 2:10])


def adm_center_crop(image, size):
    """`center_crop_arr` of guided-diffusion's image_datasets.py, word for word."""
    while min(*image.size) >= 2 * size:
        image = image.resize(tuple(x // 2 for x in image.size), resample=Image.BOX)
    scale = size / min(*image.size)
    image = image.resize(tuple(round(x * scale) for x in image.size), resample=Image.BICUBIC)
    pixels = np.array(image)
    crop_y = (pixels.shape[0] - size) // 2
    crop_x = (pixels.shape[1] - size) // 2
    return pixels[crop_y : crop_y + size, crop_x : crop_x + size]


@pytest.mark.parametrize(
    "shape", [(16, 16), (17, 31), (33, 50), (97, 64), (129, 300), (5, 7), (40, 1000), (2, 128)]
)
def test_center_crop_is_that_of_adm_bit_for_bit(shape):
    image = Image.fromarray(noise(*shape))
    np.testing.assert_array_equal(CenterCrop(16)(image), adm_center_crop(image, 16))


@pytest.mark.parametrize("shape", [(1, 1500), (1500, 1), (3, 700), (40, 5000)])
def test_center_crop_of_a_strip_is_that_of_adm_up_to_rounding(shape):
    image = Image.fromarray(noise(*shape))
    crop, expected = CenterCrop(16)(image).astype(int), adm_center_crop(image, 16).astype(int)
    assert np.abs(crop - expected).max() <= 1


@pytest.mark.parametrize("shape", [(1, 60_000), (60_000, 1)])
def test_a_strip_of_pixels_is_never_resized_whole(shape, monkeypatch):
    """60000 x 1 pixels with a shorter side of 256 would be 12 GB."""
    resize = Image.Image.resize

    def small(image, size, *args, **kwargs):
        assert size[0] * size[1] <= MAX_CROPS * 256**2
        return resize(image, size, *args, **kwargs)

    monkeypatch.setattr(Image.Image, "resize", small)
    image = Image.fromarray(noise(*shape))
    for transform in (CenterCrop(256), TrainTransform(256)):
        assert transform(image, np.random.default_rng(0)).shape == (256, 256, 3)


@pytest.mark.parametrize("shape", [(100, 50), (31, 200), (5, 7), (1, 1)])
def test_any_image_size_gives_the_crop(shape):
    image = Image.fromarray(noise(*shape))
    rng = np.random.default_rng(0)
    for transform in (
        CenterCrop(16),
        TrainTransform(16),
        TrainTransform(16, max_scale=8, upscale=False),
    ):
        pixels = transform(image, rng)
        assert (pixels.shape, pixels.dtype) == ((16, 16, 3), np.uint8)


def test_random_crops_follow_the_generator():
    image, transform = Image.fromarray(noise(64, 48)), TrainTransform(16)
    first, again, other = (transform(image, np.random.default_rng(s)) for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_native_crops_are_windows_of_the_image():
    pixels = noise(9, 11)
    windows = {pixels[y : y + 8, x : x + 8].tobytes() for y in range(2) for x in range(4)}
    transform = TrainTransform(8, min_scale=100, max_scale=100, flip=False, upscale=False)
    rng = np.random.default_rng(0)
    seen = {transform(Image.fromarray(pixels), rng).tobytes() for _ in range(200)}
    assert seen == windows


def test_recoloured_channels_change_places_and_keep_their_order_of_values():
    """Each channel is one of the image's, mapped by a rising line with a slope of 0.5 to 1."""
    values = np.arange(0, 250, 10, dtype=np.uint8).reshape(5, 5)
    image = Image.fromarray(np.stack([values, values.T, values[::-1]], -1))
    transform = TrainTransform(5, max_scale=1.0, flip=False, recolour=0.5)
    rng = np.random.default_rng(0)
    orders, spans = set(), []
    for _ in range(100):
        pixels = transform(image, rng).astype(float)
        order = []
        for channel in np.moveaxis(pixels, -1, 0):
            fits = [
                np.polyfit(source.ravel(), channel.ravel(), 1, full=True)[:2]
                for source in np.moveaxis(np.asarray(image, float), -1, 0)
            ]
            order.append(int(np.argmin([residual[0] for _, residual in fits])))
            (slope, offset), residual = fits[order[-1]]
            assert residual[0] <= 25 / 4  # rounding
            assert 0.49 < slope < 1.01 and offset > -1 and offset + 255 * slope < 256
            spans.append(slope)
        orders.add(tuple(order))
    assert len(orders) == 6 and min(spans) < 0.55 and max(spans) > 0.95


def test_recolour_is_a_share():
    with pytest.raises(ValueError, match="recolour=2 is no share; choose 0..1"):
        TrainTransform(8, recolour=2)


def test_half_of_the_images_are_flipped():
    pixels = noise(8, 8)
    rng = np.random.default_rng(0)
    transform = TrainTransform(8, max_scale=1.0)
    flipped = 0
    for _ in range(400):
        crop = transform(Image.fromarray(pixels), rng)
        flipped += bool((crop == pixels[:, ::-1]).all())
        assert (crop == pixels).all() or (crop == pixels[:, ::-1]).all()
    assert 160 < flipped < 240


def test_computing_only_the_crop_is_resizing_the_whole_and_cropping():
    ramp = np.add.outer(np.arange(90), 2 * np.arange(60))
    image = Image.fromarray(np.stack([ramp.astype(np.uint8)] * 3, -1))
    transform = TrainTransform(32, min_scale=1.25, max_scale=1.25, flip=False)
    crop = transform(image, np.random.default_rng(3)).astype(int)
    whole = np.asarray(image.resize((40, 60), Image.Resampling.BICUBIC)).astype(int)
    distances = [
        np.abs(whole[y : y + 32, x : x + 32] - crop).max() for y in range(29) for x in range(9)
    ]
    assert min(distances) <= 1


@pytest.mark.parametrize("scales", [(0.5, 1.0), (2.0, 1.0)])
def test_scales_out_of_order_are_refused(scales):
    with pytest.raises(ValueError, match="1 <= min_scale <= max_scale"):
        TrainTransform(16, *scales)


def test_crop_size_must_be_positive():
    with pytest.raises(ValueError, match="crop size is 0"):
        CenterCrop(0)


def test_a_stored_crop_is_taken_as_it_is():
    pixels = noise(8, 8)
    np.testing.assert_array_equal(StoredCrop(8)(Image.fromarray(pixels)), pixels)
    # What evaluation does to a crop of the right size is nothing either.
    np.testing.assert_array_equal(CenterCrop(8)(Image.fromarray(pixels)), pixels)
    with pytest.raises(ValueError, match="a stored crop is 13x8, not 8x8"):
        StoredCrop(8)(Image.fromarray(noise(8, 13)))


@pytest.mark.parametrize("size", [(500, 375), (64, 100), (33, 33), (9, 500)])
def test_crops_of_protocols_are_a_resize_and_a_crop(size):
    """As MGVQ's script and torchvision do it, in Pillow's own steps."""
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), np.uint8))
    short = min(size)
    wide = image.resize([max(32, round(32 * side / short)) for side in size], Image.BICUBIC)
    x, y = ((side - 32) // 2 for side in wide.size)
    np.testing.assert_array_equal(
        CROPS["cover"](32)(image), np.asarray(wide.crop((x, y, x + 32, y + 32)))
    )
    wide = image.resize([int(32 * side / short) for side in size], Image.BILINEAR)
    x, y = (round((side - 32) / 2) for side in wide.size)
    np.testing.assert_array_equal(
        CROPS["torchvision"](32)(image), np.asarray(wide.crop((x, y, x + 32, y + 32)))
    )
    narrow = Image.new("RGB", (3, 30_000))  # resized whole, it would have 10 million pixels
    assert all(CROPS[name](32)(narrow).shape == (32, 32, 3) for name in CROPS)
