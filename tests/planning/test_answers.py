"""Kept answers."""

import json

from vqlab.planning import answers


def test_an_answer_is_found_by_its_question(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = answers.path_of({"a": 1, "b": [2]})
    assert path == answers.path_of({"b": [2], "a": 1}) != answers.path_of({"a": 1, "b": [3]})
    assert answers.read(path) is None
    answers.write(path, {"fits": True})
    assert answers.read(path) == {"fits": True}
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    path.write_bytes(path.read_bytes()[:-4])
    assert answers.read(path) is None
    plain = tmp_path / "plan.json"
    answers.write(plain, {"fits": True})
    assert json.loads(plain.read_text()) == {"fits": True}
