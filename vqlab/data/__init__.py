"""Images from storage to NumPy batches: sources, decoding, transforms and the grain pipeline.

Everything is random access: record `r` of a source, example number `i` of a training run and
batch number `b` are pure functions of the source, the seed and the number. That is all that
resuming, and feeding any number of hosts, needs.
"""

from vqlab.data.corrupt import CorruptDataError
from vqlab.data.pipeline import EvalBatches, TrainBatches, eval_batches, train_batches
from vqlab.data.sources import Source, build_source
from vqlab.data.tiles import TileSource
from vqlab.data.transforms import CenterCrop, TrainTransform, to_float

__all__ = [
    "CenterCrop",
    "CorruptDataError",
    "EvalBatches",
    "Source",
    "TileSource",
    "TrainBatches",
    "TrainTransform",
    "build_source",
    "eval_batches",
    "to_float",
    "train_batches",
]
