"""How commands end."""

import errno

import jax
import pytest

from vqlab.host import cli


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "/run/metrics.jsonl"),
            1,
            "error: [Errno 28] No space left on device: '/run/metrics.jsonl'",
        ),
        (KeyboardInterrupt(), 130, "stopped by SIGINT, without a save"),
    ],
)
def test_what_is_no_fault_of_the_program_is_one_line(capsys, error, code, line):
    with pytest.raises(SystemExit) as end, cli.last_words():
        raise error
    assert end.value.code == code and capsys.readouterr().err == line + "\n"


def test_a_fault_of_the_program_keeps_its_traceback():
    with pytest.raises(KeyError), cli.last_words():
        raise KeyError("x")


def test_one_of_several_processes_leaves_at_once(monkeypatch):
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(cli, "GRACE", 0)
    monkeypatch.setattr(cli.os, "_exit", lambda code: (_ for _ in ()).throw(SystemExit(code)))
    for error, code in ((OSError("x"), 1), (KeyboardInterrupt(), 130)):
        with pytest.raises(SystemExit) as end, cli.last_words():
            raise error
        assert end.value.code == code
