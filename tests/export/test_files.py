import os

import numpy as np
import pytest

from tests import exports, tiny_kl
from vqlab.export import state_dicts, torch_weights
from vqlab.export.files import save_arrays


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o002, 0o664)])
def test_files_of_arrays_have_the_rights_of_a_new_file(umask, mode, tmp_path):
    arrays = {"bias": np.zeros(1, np.float32)}
    before = os.umask(umask)
    try:
        save_arrays(tmp_path / "a.safetensors", arrays)
        torch_weights.write_state_dict(tmp_path / "b.safetensors", arrays)
        exports.save(tmp_path / "c", tiny_kl.node(), arrays, {})
        assert os.umask(umask) == umask  # left as it was
    finally:
        os.umask(before)
    written = [tmp_path / "a.safetensors", tmp_path / "b.safetensors", *(tmp_path / "c").iterdir()]
    assert {file.name: file.stat().st_mode & 0o777 for file in written} == {
        file.name: mode for file in written
    }


def test_views_are_written_as_they_read(tmp_path):
    """safetensors itself writes the bytes of a transposed array in the order of its memory."""
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    save_arrays(tmp_path / "a.safetensors", {"kernel": array.T})
    read = state_dicts.read_state_dict(tmp_path / "a.safetensors")
    np.testing.assert_array_equal(read["kernel"], array.T)
