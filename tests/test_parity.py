"""The released code's arrays, and the command that compares with them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.check_parity import check_file, main
from tests.parity.report import Report, relative_error

GOLDEN = Path(__file__).parent / "golden"
SLOW = {
    "semanticist_gpt_tiny_si",  # the same code as _cosine, with 250 steps for each concept
    "titok_tiny",  # three programs with gradients; tests/models/test_titok.py has it forward
}


def files():
    for path in sorted(GOLDEN.glob("*.npz")):
        marks = [pytest.mark.slow] if path.stem in SLOW else []
        yield pytest.param(path, id=path.stem, marks=marks)


@pytest.mark.parametrize("path", files())
def test_every_array_of_the_released_code_is_met(path):
    report = check_file(path)
    assert [row for row in report.rows if not row.is_met] == []
    assert len(report.rows) >= 8
    assert all(row.limit <= 1.1e-3 for row in report.rows)


def edited(path, tmp_path, change):
    """A copy of an array file after change(arrays)."""
    with np.load(path) as stored:
        arrays = dict(stored)
    change(arrays)
    np.savez(tmp_path / path.name, **arrays)
    return str(tmp_path / path.name)


def test_a_missed_array_is_exit_code_1(tmp_path, capsys):
    def disturb(arrays):
        arrays["out/eval/z_q"] = arrays["out/eval/z_q"] * 1.001
        arrays["out/unheard_of"] = np.ones(3)

    file = edited(GOLDEN / "mgvq_quantizer_train.npz", tmp_path, disturb)
    assert main([file]) == 1
    missed = [line for line in capsys.readouterr().out.splitlines() if "MISS" in line]
    assert len(missed) == 2
    assert "out/eval/z_q" in missed[0] and "9.99e-04" in missed[0]
    assert "out/unheard_of" in missed[1] and "not covered" in missed[1]


def test_files_that_cannot_be_checked_are_exit_code_2(tmp_path, capsys):
    np.savez(tmp_path / "other.npz", config=json.dumps({}), **{"out/x": np.ones(1)})
    (tmp_path / "broken.npz").write_bytes(b"PK")
    shutil.copy(GOLDEN / "mgvq_tiny_f16_trainstep.npz", tmp_path / "lone_trainstep.npz")
    for name, message in {
        "other.npz": "known kinds are tokenizer",
        "broken.npz": "broken.npz",
        "absent.npz": "No such file",
        "lone_trainstep.npz": "its weights are not beside it",
    }.items():
        assert main([str(tmp_path / name)]) == 2
        assert message in capsys.readouterr().err


def test_relative_error():
    assert relative_error([1.0, 2.0], [1.0, 4.0]) == 0.5
    assert relative_error([0.0, 1e-3], [0.0, 0.0]) == 1e-3
    assert relative_error([1.0], [1.0, 1.0]) == np.inf
    assert not np.isfinite(relative_error([np.nan], [1.0]))


def test_not_a_number_is_a_miss():
    report = Report({"out/x": np.ones(1)})
    report.close("out/x", [np.nan])
    assert not report.is_met
