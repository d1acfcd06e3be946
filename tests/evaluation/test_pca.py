import dataclasses

import numpy as np
import pytest

from tests.evaluation import stubs
from vqlab.evaluation import panels
from vqlab.evaluation.panels import Measured
from vqlab.evaluation.pca import PCABaseline, fit_components
from vqlab.models.codec import Units

UNITS = Units("concepts", 4, (1, 2, 3, 4), "nulls", 3)


@dataclasses.dataclass(frozen=True)
class CountCodec:
    units: Units = UNITS
    setting: str = ""


TRAIN, HELD_OUT = stubs.images(12, seed=1), stubs.images(5, seed=2)


def _make_batches(split):
    return stubs.batches(TRAIN if split == "train" else HELD_OUT)(split)


@pytest.fixture(scope="module")
def evaluated():
    evaluator = PCABaseline(CountCodec(), _make_batches)
    return evaluator, evaluator.measure({}, {})


def _by_svd(k):
    """Held-out reconstructions from k components by NumPy's SVD, and the training mean."""
    pixels, held_out = (x.reshape(len(x), -1).astype(np.float64) for x in (TRAIN, HELD_OUT))
    mean = pixels.mean(0)
    basis = np.linalg.svd(pixels - mean, full_matrices=False)[2][:k]
    return held_out, mean + (held_out - mean) @ basis.T @ basis, mean


@pytest.mark.parametrize("k", [1, 4, 11])
def test_equals_the_singular_value_decomposition(k, evaluated):
    held_out, fitted, mean = _by_svd(k)
    error, spread = np.sum((held_out - fitted) ** 2), np.sum((held_out - mean) ** 2)
    results = evaluated[1]
    assert results[f"components_{k}/explained_variance"] == pytest.approx(
        1 - error / spread, abs=1e-4
    )
    mse = np.mean((np.clip(held_out, -1, 1) - np.clip(fitted, -1, 1)) ** 2) / 4
    assert results[f"components_{k}/psnr"] == pytest.approx(-10 * np.log10(mse), rel=1e-5)


def test_numbers_of_components_are_powers_levels_and_as_many_numbers(evaluated):
    """1, 2, 4, 8; levels 1..4; 3 numbers each; and the 11 that 12 images about their mean have."""
    ks = [int(name.split("/")[0].removeprefix("components_")) for name in evaluated[1]]
    assert sorted(set(ks)) == [1, 2, 3, 4, 6, 8, 9, 11]
    few = PCABaseline(CountCodec(), _make_batches, max_components=2).measure({}, {})
    assert {name.split("/")[0] for name in few} == {"components_1", "components_2"}


def test_all_components_of_the_fitted_images_reproduce_them():
    results = PCABaseline(CountCodec(), _make_batches, fit_split="validation").measure({}, {})
    assert results["components_4/explained_variance"] == pytest.approx(1, abs=1e-5)
    assert results["components_4/psnr"] > 60


def test_components_are_orthonormal():
    mean, components = fit_components(TRAIN, 6, seed=0)
    np.testing.assert_allclose(components @ components.T, np.eye(6), atol=1e-5)
    np.testing.assert_allclose(mean, TRAIN.mean(0).ravel(), atol=1e-6)


def test_curves_stand_beside_levels(evaluated):
    results = {f"pca/{name}": value for name, value in evaluated[1].items()}
    curves = panels.component_curves(results, "psnr", UNITS)
    assert {label: x.tolist() for label, (x, _) in curves.items()} == {
        "PCA, 1 number each": [1, 2, 3, 4],
        "PCA, 3 numbers each": [1, 2, 3],
    }
    assert curves["PCA, 3 numbers each"][1][1] == results["pca/components_6/psnr"]
    alone = panels.component_curves(results, "psnr", UNITS._replace(numbers=0))
    assert alone.keys() == {"PCA"}
    assert panels.component_curves({}, "psnr", UNITS) == {}


def test_protocol_and_section(evaluated):
    evaluator, results = evaluated
    assert evaluator.protocol.keys() == results.keys()
    assert "components of 12 train images" in evaluator.protocol["components_1/psnr"]
    measured = Measured({f"pca/{name}": value for name, value in results.items()}, {})
    (section,) = evaluator.sections("pca", measured)
    assert "<td>first 9</td>" in section.body


def test_errors():
    with pytest.raises(ValueError, match="at least 2 images, got 1"):
        PCABaseline(CountCodec(), stubs.batches(TRAIN[:1])).measure({}, {})
    with pytest.raises(ValueError, match="unknown split"):
        PCABaseline(CountCodec(), _make_batches, fit_split="test")
    with pytest.raises(ValueError, match="max_components=0"):
        PCABaseline(CountCodec(), _make_batches, max_components=0)
    with pytest.raises(ValueError, match="the train split has no images"):
        PCABaseline(CountCodec(), lambda split: []).measure({}, {})
