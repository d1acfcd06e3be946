"""`pip install .` into an empty environment is enough to load an exported folder."""

import pathlib
import subprocess
import venv

import numpy as np
import pytest

from tests import exports, tiny
from tests.filled import filled

ROOT = pathlib.Path(__file__).parent.parent

SCRIPT = """
import sys
import numpy as np
import vqlab
tokenizer = vqlab.load(sys.argv[1])
indices = tokenizer.encode(np.load(sys.argv[2]))
np.save(sys.argv[3], indices)
for name in ("optax", "orbax", "grain", "tensorflow_datasets", "clu", "skimage", "ml_collections"):
    assert name not in sys.modules, name
"""


@pytest.mark.slow
def test_the_core_loads_an_export(tmp_path):
    module = tiny.tokenizer()
    variables = filled(module.init, tiny.images(1, 32))
    exports.save(tmp_path / "export", tiny.tokenizer_node(), variables.pop("params"), variables)
    images = np.asarray(tiny.images(2, 32))
    np.save(tmp_path / "images.npy", images)
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", str(ROOT)], check=True)
    files = [tmp_path / name for name in ("export", "images.npy", "indices.npy")]
    done = subprocess.run(
        [python, "-c", SCRIPT, *files], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    import vqlab

    expected = vqlab.load(tmp_path / "export").encode(images)
    assert (np.load(tmp_path / "indices.npy") == expected).mean() > 0.99
