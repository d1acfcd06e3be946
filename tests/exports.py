"""Exported folders in tests, from and to plain trees."""

from vqlab.export.package import Package, load_package, save_package
from vqlab.models.codec import Weights


def save(path, node, params, variables=None, *, frozen=None, sampling=None, **options):
    """The folder of a model with these arrays."""
    weights = Weights({"params": params, **(variables or {})}, frozen or {})
    return save_package(path, Package(node, weights, sampling or {}), **options)


def load(path):
    """(node, params, other collections) of a folder."""
    node, weights, _ = load_package(path)
    variables = dict(weights.variables)
    return node, variables.pop("params"), variables
