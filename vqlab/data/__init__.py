"""Images from storage to NumPy batches: sources, decoding, transforms and the grain pipeline.

Records hold images together with what networks made of them, to be made once and trained from.

Everything is random access: record `r` of a source, example number `i` of a training run and
batch number `b` are pure functions of the source, the seed and the number. That is all that
resuming, and feeding any number of hosts, needs.
"""

from vqlab.data.codes import CodeSource, NoCrop
from vqlab.data.contents import listing_facts
from vqlab.data.corrupt import CorruptDataError
from vqlab.data.decode import Decoding, decoding_of
from vqlab.data.image_sets import SAMPLES, ImageSet, holds, open_images, pairs_by_name
from vqlab.data.manifest import IMAGES, Field, Manifest, check_records, read_manifest
from vqlab.data.packing import bits_for
from vqlab.data.pipeline import EvalBatches, TrainBatches, eval_batches, train_batches
from vqlab.data.record_writer import RecordFileError, RecordWriter
from vqlab.data.records import RecordArrays, RecordSource
from vqlab.data.size_batches import SizeBatches
from vqlab.data.source import Source
from vqlab.data.sources import SOURCES, build_source
from vqlab.data.tiles import TileSource
from vqlab.data.transforms import CROPS, CenterCrop, StoredCrop, TrainTransform, to_float
from vqlab.data.views import CenterViews, RandomViews, ViewBatches

__all__ = [
    "CROPS",
    "CenterCrop",
    "CenterViews",
    "CodeSource",
    "CorruptDataError",
    "Decoding",
    "EvalBatches",
    "Field",
    "IMAGES",
    "ImageSet",
    "Manifest",
    "NoCrop",
    "RandomViews",
    "RecordArrays",
    "RecordFileError",
    "RecordSource",
    "RecordWriter",
    "SAMPLES",
    "SOURCES",
    "SizeBatches",
    "Source",
    "StoredCrop",
    "TileSource",
    "TrainBatches",
    "TrainTransform",
    "ViewBatches",
    "bits_for",
    "build_source",
    "check_records",
    "decoding_of",
    "eval_batches",
    "holds",
    "listing_facts",
    "open_images",
    "pairs_by_name",
    "read_manifest",
    "to_float",
    "train_batches",
]
