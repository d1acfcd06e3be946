"""Ten photographs that ship inside the wheels of scikit-image and scikit-learn."""

import functools
import importlib.util
from pathlib import Path

from PIL import Image

from vqlab.data.decode import decode_rgb
from vqlab.data.source import Source

PHOTOS = {
    "train": (
        "skimage/data/astronaut.png",
        "skimage/data/chelsea.png",
        "skimage/data/hubble_deep_field.jpg",
        "skimage/data/ihc.png",
        "skimage/data/motorcycle_left.png",
        "skimage/data/retina.jpg",
        "skimage/data/rocket.jpg",
        "sklearn/datasets/images/china.jpg",
    ),
    "validation": (
        "skimage/data/coffee.png",
        "sklearn/datasets/images/flower.jpg",
    ),
}


class PhotoSource(Source):
    """Eight photographs to train on, two others (coffee, flower) to validate on.

    The split is by photograph, so no validation pixel is ever trained on; sampling is per
    photograph and not per pixel, since the retina alone has 40 % of the pixels. Enough to see
    that training works; too few for any figure of quality.

    Licences, as the packages state them. skimage.data: astronaut, rocket and hubble_deep_field
    (NASA, SpaceX) are public domain; chelsea (Stefan van der Walt), coffee (Rachel Michetti,
    Pikolo Espresso Bar) and retina (Mikael Haggstrom) are CC0; ihc (Center for Microscopy and
    Molecular Imaging) has no known restrictions; motorcycle_left is from the Middlebury 2014
    stereo benchmark (Scharstein et al.). scikit-learn: china.jpg (flickr.com/danielbuechele)
    and flower.jpg (flickr.com/vultilion) are CC-BY 2.0, see its datasets/images/README.txt.

    Labels are the photograph's number within its split.
    """

    def __init__(self, split: str = "train"):
        if split not in PHOTOS:
            raise ValueError(f"the photographs have no split {split!r}; known: {list(PHOTOS)}")
        self._paths = [_package_file(name) for name in PHOTOS[split]]
        self.num_classes = len(self._paths)

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, record: int) -> dict:
        """{"image": decoded RGB image, "label": int}."""
        return {"image": _decoded(self._paths[record]), "label": int(record)}

    def name(self, record: int) -> str:
        """The photograph's file."""
        return str(self._paths[record])


def _package_file(name: str) -> Path:
    """A file inside an installed package, found without importing the package."""
    package, _, rest = name.partition("/")
    spec = importlib.util.find_spec(package)
    path = Path(spec.origin).parent / rest if spec and spec.origin else None
    if path is None or not path.is_file():
        raise ValueError(
            f"photograph {name} is missing; install {package} as pinned in requirements.txt"
        )
    return path


@functools.cache
def _decoded(path: Path) -> Image.Image:
    """Decoded once a process (20 MB in all), because an epoch is only eight records."""
    return decode_rgb(path.read_bytes())
