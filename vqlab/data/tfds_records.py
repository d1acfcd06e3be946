"""A TensorFlow Datasets data set, stored as array_record and read without TensorFlow."""

import logging
import os
from collections.abc import Mapping
from typing import Any, ClassVar

from vqlab.data.contents import Entry
from vqlab.data.decode import PLAIN, Decoding
from vqlab.data.source import Source

DEFAULT_DATA_DIR = "~/tensorflow_datasets"
# What `tfds build` imports; apache-beam's pins and ours cannot be met together.
_BUILDER = (
    "tensorflow-cpu tensorflow-datasets apache-beam mlcroissant array_record importlib_resources"
)

# Training images of data sets whose size is known without reading them.
TRAIN_IMAGES = {"imagenet2012": 1_281_167}


class TfdsSource(Source):
    """Random access to a prepared data set with an `image` and possibly a `label` feature.

    Images stay encoded here (tfds would leave CMYK, palettes and alpha as they are) and are
    decoded by the pipeline.

    Args:
      dataset: tfds name, `imagenet2012` or with a version `imagenet2012:5.1.0`.
      split: tfds split, `train`, `validation`, `train[:1%]`.
      data_dir: where data sets lie; empty for `$TFDS_DATA_DIR` or `~/tensorflow_datasets`.
      decoding: how the images become RGB.

    Raises:
      ValueError: not prepared there as array_record (three lines: how to), no such split, or no
        image feature.
    """

    setting: ClassVar[str] = "dataset"

    def __init__(
        self,
        dataset: str,
        split: str = "train",
        data_dir: str | None = None,
        decoding: Decoding = PLAIN,
    ):
        if not dataset:
            raise ValueError("the tfds data set has no name; give e.g. dataset='imagenet2012'")
        where = data_dir or os.environ.get("TFDS_DATA_DIR") or DEFAULT_DATA_DIR
        self._args = (dataset, split, os.path.expanduser(where))
        self.decoding = decoding
        self._records, features = _open(*self._args)
        self._has_label = "label" in features
        label = features["label"] if self._has_label else None
        self.num_classes = (getattr(label, "num_classes", None) or 1) if self._has_label else 0

    @property
    def identity(self) -> dict[str, str]:
        """The name of the data set."""
        return {"dataset": self._args[0]}

    @classmethod
    def known_images(cls, settings: Mapping[str, Any]) -> int | None:
        """Of data sets that everybody knows."""
        return TRAIN_IMAGES.get(settings["dataset"])

    def __reduce__(self):
        # A worker opens its own: builders do not always pickle.
        return TfdsSource, (*self._args, self.decoding)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, record: int) -> dict:
        """{"image": encoded bytes, "label": int}."""
        try:
            fields = self._records[int(record)]
        except RuntimeError as error:  # array_record's word for a damaged chunk
            raise OSError(f"unreadable record: {error}") from error
        return {"image": fields["image"], "label": int(fields["label"]) if self._has_label else 0}

    def entries(self, count: int) -> list[Entry]:
        """All images as one, see `vqlab.data.contents`: version and shards, as tfds counts them."""
        info = self._records.dataset_info
        split = info.splits[self._args[1].split("[")[0]]
        return [Entry(f"{info.full_name} {list(split.shard_lengths)}", int(split.num_bytes))]

    def name(self, record: int) -> str:
        """Data set, split and number of the record."""
        dataset, split, _ = self._args
        return f"{dataset} {split} record {record}"


def _open(dataset: str, split: str, data_dir: str):
    """The random-access records of a split, and the features of the data set."""
    import tensorflow_datasets as tfds  # almost a second, and only this source needs it

    logging.getLogger("absl").addFilter(_unprepared_is_an_error)
    try:
        builder = tfds.builder(dataset, data_dir=data_dir)
        prepared = builder.info.splits and _random_access(builder.info)
    except tfds.core.DatasetNotFoundError:
        prepared = False
    except ValueError as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"cannot open tfds data set {dataset!r}: {reason}") from error
    finally:
        logging.getLogger("absl").removeFilter(_unprepared_is_an_error)
    if not prepared:
        raise ValueError(_how_to_prepare(dataset, data_dir))
    if split.split("[")[0] not in builder.info.splits:
        raise ValueError(f"{dataset} has no split {split!r}; known: {list(builder.info.splits)}")
    if "image" not in builder.info.features:
        raise ValueError(f"{dataset} has no 'image'; its features: {list(builder.info.features)}")
    decoders = {"image": tfds.decode.SkipDecoding()}
    return builder.as_data_source(split, decoders=decoders), builder.info.features


def _random_access(info) -> bool:
    formats = {each.value for each in info.available_file_formats()}
    return bool(formats & {"array_record", "parquet"})


def _unprepared_is_an_error(record: logging.LogRecord) -> bool:
    """Keeps tfds from warning of a missing data set right before our own error does."""
    return "has no dataset_info.json" not in record.getMessage()


def _how_to_prepare(dataset: str, data_dir: str) -> str:
    name = dataset.split(":")[0]
    manual = (
        f" (first put ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar, from image-net.org,"
        f" into {data_dir}/downloads/manual)"
        if name.startswith("imagenet2012")
        else ""
    )
    return (
        f"data set {dataset!r} is not prepared as array_record in {data_dir}; prepare it once:\n"
        f"with tfds{manual}, in an environment of its own (docs/tfds.md): pip install {_BUILDER} &&"
        f" tfds build {name} --file_format=array_record --data_dir={data_dir}\n"
        "or use a folder of images: --config.data.name=folder --config.data.path=DIR"
        " (DIR/train/CLASS/*.jpg and DIR/validation/CLASS/*.jpg)"
    )
