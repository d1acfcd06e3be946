"""PyTorch's files read without PyTorch, beside what PyTorch reads."""

import argparse
import io
import pickle
import tracemalloc
import types
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from vqlab.export import inert_pickle
from vqlab.export.state_dicts import read_state_dict

torch = pytest.importorskip("torch")


class Callback:
    """An object beside the tensors, of a class that the reader need not have."""

    class Best:
        """A class within a class."""

    def __init__(self):
        self.history, self.best, self.hook = [torch.ones(2)], self.Best(), self.reset

    def reset(self):
        """A stored method."""


class Touch:
    """Unpickled, it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


class Settings(dict):
    """A kind of dict, as Lightning's and OmegaConf's."""


def save(folder, content, *, is_zip=True):
    path = folder / "weights.pt"
    torch.save(content, path, _use_new_zipfile_serialization=is_zip)
    return path


def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Linear(5, 6).half()
    ).append(torch.nn.Linear(2, 3).bfloat16())


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "before 1.6"])
def test_every_tensor_is_what_pytorch_reads(tmp_path, is_zip):
    base = torch.arange(24.0).reshape(4, 6)
    base.note = "a tensor with an attribute"
    state = OrderedDict(network().state_dict()) | {
        "a view": base[1:, 2:].T,
        "its base": base,
        "a row": base[2],
        "empty": torch.zeros(0, 3),
        "double": torch.tensor([0.1], dtype=torch.float64),
        "parameter": torch.nn.Parameter(torch.randn(2)),
        "bytes": torch.tensor([1, 255], dtype=torch.uint8),
    }
    read = read_state_dict(save(tmp_path, state, is_zip=is_zip))
    assert read.keys() == state.keys()
    for name, tensor in state.items():
        expected = tensor.detach()
        expected = (expected.float() if expected.is_floating_point() else expected).numpy()
        assert read[name].dtype == expected.dtype, name
        np.testing.assert_array_equal(read[name], expected)
    np.testing.assert_array_equal(
        read["a view"], [[8, 14, 20], [9, 15, 21], [10, 16, 22], [11, 17, 23]]
    )


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "before 1.6"])
def test_what_else_a_training_checkpoint_holds_does_not_matter(tmp_path, is_zip):
    model = network()
    optimizer = torch.optim.Adam(model.parameters())
    checkpoint = {
        "state_dict": model.state_dict(),
        "args": argparse.Namespace(lr=1e-4, out=Path("runs")),
        "callbacks": {"best": Callback(), "Timer": {"elapsed": 3.0}},
        "hyper_parameters": Settings(width=3, dtype=torch.float16),
        "optimizer_states": [optimizer.state_dict()],
        "rng": (torch.get_rng_state(), np.random.default_rng(0), {1, 2}),
        "harm": Touch(tmp_path / "ran"),
        "epoch": 3,
    }
    read = read_state_dict(save(tmp_path, checkpoint, is_zip=is_zip))
    assert read.keys() == model.state_dict().keys()
    np.testing.assert_array_equal(read["0.weight"], model[0].weight.detach().numpy())
    assert not (tmp_path / "ran").exists()


def test_nothing_stored_runs(tmp_path):
    ran = tmp_path / "ran"
    attacks = [
        {"two\nlines": Touch(ran)},
        [Touch(ran), {"model": Touch(ran)}],
        types.SimpleNamespace(weight=Touch(ran)),
    ]
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        for attack in attacks:
            (tmp_path / "plain.pkl").write_bytes(pickle.dumps(attack, protocol))
            torch.save(attack, tmp_path / "zipped.pkl", pickle_protocol=max(protocol, 2))
            for name in ("plain.pkl", "zipped.pkl"):
                with pytest.raises(ValueError, match="holds no state dict") as caught:
                    read_state_dict(tmp_path / name)
                assert "\n" not in str(caught.value)
    assert not ran.exists()
    pickle.loads((tmp_path / "plain.pkl").read_bytes())
    assert ran.exists()  # so the file would have done harm


@pytest.mark.parametrize(
    "program",
    [
        b"cbuiltins\neval\n(S'1/0'\ntR.",  # calls
        b"(ibuiltins\neval\n.",  # makes an object the old way
        b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93\x8c\x031/0\x85R.",  # names from the stack
        b"\x80\x02cbuiltins\ngetattr\ncbuiltins\nstr\nX\x05\x00\x00\x00upper\x86R)R)R.",  # methods
    ],
)
def test_names_in_a_pickle_are_never_looked_up(program):
    assert isinstance(inert_pickle.load(io.BytesIO(program), None), inert_pickle.Inert)


def test_a_few_bytes_do_not_ask_for_memory():
    program = b"\x80\x02K\x01r" + (1 << 22).to_bytes(4, "little") + b"."  # memo number 4,194,304
    tracemalloc.start()
    assert inert_pickle.load(io.BytesIO(program), None) == 1
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_state_put_on_a_class_stays_within_one_reading():
    # BUILD on the class of ordered dicts, with attributes to set on it.
    program = b"\x80\x02ccollections\nOrderedDict\nN}X\x04\x00\x00\x00keysK\x01s\x86b."
    with pytest.raises(inert_pickle.ERRORS):
        inert_pickle.load(io.BytesIO(program), None)
    assert list(inert_pickle.Ordered({"a": 1}).keys()) == ["a"]


def test_a_whole_network_is_named_with_the_two_lines_that_save_its_tensors(tmp_path):
    path = save(tmp_path, {"model": network()})
    with pytest.raises(ValueError, match=r"'model' an object of torch\..*Sequential") as caught:
        read_state_dict(path)
    first, second = str(caught.value).rpartition("is installed: ")[2].split("; ")
    names = {"torch": torch, "FILE": path}
    exec(first, names)
    exec(second.replace("weights.pt", str(tmp_path / "again.pt")), names)
    assert read_state_dict(tmp_path / "again.pt").keys() == network().state_dict().keys()


@pytest.mark.filterwarnings("ignore:.*quantize")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda x: x.to(torch.float8_e4m3fn), "weight is float8_e4m3fn; give weights in floats"),
        (lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8), "weight is quantized"),
        (lambda x: x.to_sparse(), "weight is of a kind that is not read .*_rebuild_sparse_tensor"),
    ],
)
def test_tensors_that_are_no_plain_floats_are_named(tmp_path, make, message):
    with pytest.raises(ValueError, match=message):
        read_state_dict(save(tmp_path, {"weight": make(torch.ones(2, 2))}))


def changed(path, name, edit):
    """Writes a zip archive anew with one entry edited."""
    with zipfile.ZipFile(path) as archive:
        entries = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        for entry, data in entries.items():
            archive.writestr(entry, edit(data) if entry.endswith(name) else data)


def test_archives_that_do_not_hold_what_they_say_are_refused(tmp_path):
    path = save(tmp_path, {"weight": torch.ones(4)})
    changed(path, "/byteorder", lambda _: b"big")
    with pytest.raises(ValueError, match="damaged or no PyTorch checkpoint .of a big-endian"):
        read_state_dict(path)
    path = save(tmp_path, {"weight": torch.ones(4)})
    changed(path, "/data/0", lambda data: data[:12])
    with pytest.raises(ValueError, match="weight reaches beyond what is stored of it"):
        read_state_dict(path)
    # A flipped bit, which the checksum of the entry tells.
    path = save(tmp_path, {"weight": torch.full((4,), 1.5)})
    path.write_bytes(path.read_bytes().replace(np.float32(1.5).tobytes(), np.float32(2).tobytes()))
    with pytest.raises(ValueError, match="weight is damaged .*CRC"):
        read_state_dict(path)


def test_archives_without_checksums_are_read(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        path = save(tmp_path, {"weight": torch.ones(4)})
    finally:
        torch.serialization.set_crc32_options(True)
    np.testing.assert_array_equal(read_state_dict(path)["weight"], np.ones(4))


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "before 1.6"])
def test_files_cut_short_are_refused_in_one_line(tmp_path, is_zip):
    path = save(tmp_path, network().state_dict(), is_zip=is_zip)
    whole = path.read_bytes()
    for length in (0, 3, 100, 900, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="damaged or no PyTorch checkpoint") as caught:
            read_state_dict(path)
        assert "\n" not in str(caught.value)
    path.write_bytes(b"no pickle")
    with pytest.raises(ValueError, match="damaged or no PyTorch checkpoint"):
        read_state_dict(path)
