"""Studies: what is refused in one line, and which runs are run, by whom, and once."""

import contextlib
import json

import ml_collections
import pytest

from tests import tiny_study
from vqlab.host.lock import if_free, only_run
from vqlab.registry import choose
from vqlab.runs.studies import KINDS, record
from vqlab.runs.studies.arms import choose_jobs, merged, read_arms, with_data
from vqlab.runs.studies.page import write_study
from vqlab.runs.studies.runner import run_jobs
from vqlab.runs.trainer import RunFailed


def labels(jobs):
    return [job.label for job in jobs]


def test_arms_are_the_base_with_their_changes():
    study = tiny_study.config(**{"arms.mgvq.seeds": (7,), "base.num_steps": 3})
    arms = tiny_study.arms_of(study)
    assert list(arms) == ["vae_low", "vae_high", "mgvq"]
    low, mgvq = arms["vae_low"].config_of(0), arms["mgvq"].config_of(7)
    # A part takes the place of the base's part whole; the rest is merged.
    assert low.model.quantizer.to_dict() == {"name": "gaussian_bottleneck", "latent_channels": 4}
    assert low.model.encoder == mgvq.model.encoder == study.base.model.encoder
    assert (low.num_steps, low.seed, mgvq.seed) == (3, 0, 7)
    assert arms["vae_high"].config_of(0).objective.quantizer_weight == 1e-9
    assert low.objective.quantizer_weight == study.base.objective.quantizer_weight


def test_first_seeds_come_first_and_runs_can_be_chosen():
    arms = tiny_study.arms_of(tiny_study.config(**{"arms.mgvq.seeds": (7,)}))
    assert labels(choose_jobs(arms)) == [
        "vae_low seed 0",
        "vae_high seed 0",
        "mgvq seed 7",
        "vae_low seed 1",
        "vae_high seed 1",
    ]
    assert labels(choose_jobs(arms, ["mgvq"], 7)) == ["mgvq seed 7"]
    assert labels(choose_jobs(arms, ["vae_high"])) == ["vae_high seed 0", "vae_high seed 1"]


REFUSED = [
    ({"seeds": (0, 1, 0)}, "seed of arm 'vae_low' twice: 0"),
    ({"arms.mgvq.seeds": (3, 3)}, "seed of arm 'mgvq' twice: 3"),
    ({"seeds": (-1,)}, "seed=-1 is out of range"),
    ({"seeds": ()}, "arm 'vae_low' has no seeds"),
    ({"order": ("vae_low", "vae_high")}, "the study's arms and its order differ: mgvq"),
    ({"order": ("vae_low", "vae_low", "mgvq")}, "arm in the study's order twice: vae_low"),
    (
        {"order": ("vae_low", "vae_high", "mgvq", "a-b"), "arms.a-b": {}},
        "arm 'a-b': letters, digits and '_' make an arm's name",
    ),
    ({"anchor": "PCA"}, "unknown anchor 'PCA'; choose from VAE, MGVQ"),
    ({"kind": "nonsense"}, "unknown kind of study 'nonsense'; choose from rate_distortion"),
    (
        {"arms.mgvq.changes": {"model": {"quantiser": {}}}},
        "arm 'mgvq' changes model.quantiser, which the base does not have",
    ),
    (
        {"arms.mgvq.changes": {"data": {"path": "/other"}}},
        "arms 'vae_low' and 'mgvq' are not comparable: data.path is \"\" and \"/other\"; if that "
        "is meant, add 'data.path' to the study's may_differ",
    ),
    (
        {"arms.vae_high.changes": {"evals": {"reconstruction": {"limit": 3}}}},
        "not comparable: evals.reconstruction.limit is 8 and 3",
    ),
    ({"arms.mgvq.changes": {"num_steps": 9}}, "not comparable: num_steps is 2 and 9"),
    (
        {"arms.mgvq.changes": {"model": {"quantizer": {"name": "vq"}}}},
        "unknown module 'vq'; choose from",
    ),
    ({"base.evals.rate_distortion.image_size": 15}, "rate_distortion.image_size=15 is no mult"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_wrong_studies_are_refused_in_one_line(changes, message):
    changes = {key: _node(value) for key, value in changes.items()}
    study = tiny_study.config(**changes)
    with pytest.raises(ValueError) as error:
        kind = choose("kind of study", study.kind, KINDS)
        kind(study, read_arms(study, kind.equal))
    assert message in str(error.value) and "\n" not in str(error.value)


def _node(value):
    return ml_collections.ConfigDict(value) if isinstance(value, dict) else value


def test_a_difference_that_is_meant_is_none():
    change = _node({"num_steps": 9, "data": {"path": "/other"}})
    study = tiny_study.config(**{"arms.mgvq.changes": change, "may_differ": ("data", "num_steps")})
    assert tiny_study.arms_of(study)["mgvq"].config.num_steps == 9


def test_unknown_arms_and_seeds_are_refused():
    arms = tiny_study.arms_of(tiny_study.config())
    with pytest.raises(ValueError, match="unknown arm 'vq'; choose from vae_low, vae_high, mgvq"):
        choose_jobs(arms, ["vq"])
    with pytest.raises(ValueError, match="arm twice: mgvq"):
        choose_jobs(arms, ["mgvq", "mgvq"])
    with pytest.raises(ValueError, match="arm 'mgvq' has no seed 5; its seeds are 0, 1"):
        choose_jobs(arms, ["mgvq"], 5)


def test_data_are_given_by_one_flag():
    base = tiny_study.config().base.copy_and_resolve_references().unlock()
    with_data(base, "folder:/my/photos")
    assert (base.data.name, base.data.path) == ("folder", "/my/photos")
    with_data(base, "tfds:imagenet2012:5.1.0")
    assert (base.data.name, base.data.dataset) == ("tfds", "imagenet2012:5.1.0")
    for wrong, wanted in (
        ("folder", "folder:PATH"),
        ("photos:x", "photos"),
        ("tfds:", "tfds:DATA"),
    ):
        with pytest.raises(ValueError, match=f"not to be understood: give {wanted}"):
            with_data(base, wrong)
    with pytest.raises(ValueError, match="unknown data source 'flickr'"):
        with_data(base, "flickr:x")


def test_changes_meet_the_base():
    base = {"a": {"name": "x", "b": 1}, "c": {"d": 1, "e": 2}}
    assert merged(base, {"a": {"name": "y"}, "c": {"d": 3}}, "arm") == {
        "a": {"name": "y"},
        "c": {"d": 3, "e": 2},
    }
    assert base["c"]["d"] == 1
    # What only some networks have a base of others lacks.
    base = {"evals": {"x": {"name": "y"}}}
    new = {"sampling": {"num_steps": 4}, "evals": {"x": {"piece_size": 8}}}
    assert merged(base, new, "arm") == {
        "sampling": {"num_steps": 4},
        "evals": {"x": {"name": "y", "piece_size": 8}},
    }


@contextlib.contextmanager
def held(folder):
    yield True


class Trainer:
    """Makes runs up; stops at one, fails at another."""

    def __init__(self, study, workdir, stop_at="", fail_at=""):
        self.asked, self._workdir = [], workdir
        self._jobs = {job.folder: job for job in tiny_study.jobs_of(study)}
        self._stop_at, self._fail_at = stop_at, fail_at

    def __call__(self, config, folder, stop, description):
        job = self._jobs[str(folder.relative_to(self._workdir))]
        assert config == job.arm.config_of(job.seed)
        self.asked.append(description)
        if job.label == self._fail_at:
            raise RunFailed("loss is nan")
        return None if job.label == self._stop_at else {"parameters": 1.0}


def test_a_study_goes_on_where_it_was_stopped(tmp_path):
    study = tiny_study.config()
    jobs, pages = tiny_study.jobs_of(study), []
    trainer = Trainer(study, tmp_path, stop_at="mgvq seed 0")
    outcome = run_jobs(jobs, tmp_path, trainer, held, lambda: pages.append(1))
    assert outcome.is_stopped and len(pages) == 3
    assert trainer.asked == ["1/6 vae_low seed 0", "2/6 vae_high seed 0", "3/6 mgvq seed 0"]
    assert not record.read_record(tmp_path / "mgvq/seed0").is_finished
    trainer = Trainer(study, tmp_path)
    outcome = run_jobs(jobs, tmp_path, trainer, held, lambda: pages.append(1))
    assert not outcome.is_stopped and trainer.asked[0] == "3/6 mgvq seed 0"
    assert len(trainer.asked) == 4
    trainer = Trainer(study, tmp_path)
    run_jobs(jobs, tmp_path, trainer, held, lambda: pages.append(1))
    assert trainer.asked == []
    assert record.read_record(tmp_path / "mgvq/seed0").costs == {"parameters": 1.0}


def test_a_run_that_fails_leaves_the_others(tmp_path):
    study = tiny_study.config(seeds=(0,))
    jobs = tiny_study.jobs_of(study)
    trainer = Trainer(study, tmp_path, fail_at="vae_high seed 0")
    outcome = run_jobs(jobs, tmp_path, trainer, held, lambda: None)
    assert outcome.failed == {"vae_high seed 0": "loss is nan"} and len(trainer.asked) == 3
    assert record.read_record(tmp_path / "vae_high/seed0").error == "loss is nan"
    again = Trainer(study, tmp_path)
    run_jobs(jobs, tmp_path, again, held, lambda: None)
    assert again.asked == ["2/3 vae_high seed 0"]
    assert record.read_record(tmp_path / "vae_high/seed0").error == ""


def test_runs_of_other_processes_are_left_to_them(tmp_path):
    study = tiny_study.config(seeds=(0,))
    trainer = Trainer(study, tmp_path)
    with only_run(tmp_path / "vae_high/seed0"):
        with if_free(tmp_path / "vae_high/seed0") as is_free:
            assert not is_free
        outcome = run_jobs(tiny_study.jobs_of(study), tmp_path, trainer, if_free, lambda: None)
    assert outcome.elsewhere == ["vae_high seed 0"]
    assert trainer.asked == ["1/3 vae_low seed 0", "3/3 mgvq seed 0"]
    with if_free(tmp_path / "vae_high/seed0") as is_free:
        assert is_free


def test_a_run_whose_config_changed_is_refused_with_the_difference(tmp_path):
    job = tiny_study.jobs_of(tiny_study.config())[0]
    folder = tmp_path / job.folder
    record.check_unchanged(job, folder)  # there is none
    tiny_study.make_up(job, tmp_path)
    record.check_unchanged(job, folder)
    changed = {"base.num_steps": 5, "base.data.path": "/new", "base.loader.num_workers": 3}
    other = tiny_study.jobs_of(tiny_study.config(**changed))[0]
    with pytest.raises(ValueError) as error:
        record.check_unchanged(other, folder)
    assert str(error.value) == (
        f'vae_low seed 0 was finished with other settings in {folder}: data.path was "", is '
        '"/new"; num_steps was 2, is 5: set them back, name another --workdir, or delete that '
        "folder"
    )


def test_time_of_killed_attempts_counts(tmp_path, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(record.time, "time", lambda: now[0])
    first = record.begin(tmp_path)
    assert (first.started, first.seconds) == (1000.0, 0.0)
    (tmp_path / "metrics.jsonl").write_text("")
    import os

    os.utime(tmp_path / "metrics.jsonl", (1060, 1060))  # then it was killed
    now[0] = 5000.0
    second = record.begin(tmp_path)
    assert second.seconds == 60.0
    now[0] = 5030.0
    record.end(tmp_path, second, is_finished=True)
    saved = record.read_record(tmp_path)
    assert (saved.seconds, saved.started, saved.is_finished) == (90.0, 0.0, True)
    (tmp_path / record.RECORD_FILE).write_text('{"is_fin')
    with pytest.raises(ValueError, match="is no record of a run: delete it"):
        record.read_record(tmp_path)


def test_a_study_without_runs_has_a_page(tmp_path):
    study = tiny_study.config()
    arms = tiny_study.arms_of(study)
    page = write_study(study, KINDS[study.kind](study, arms), arms, tmp_path, "python -m x")
    text = page.read_text()
    assert "0 of 6 runs" in text and text.count(": not run</li>") == 6
    assert "Which &lt;one&gt;?" in text and "this &amp; that" in text
    saved = json.loads((tmp_path / "study.json").read_text())
    assert {run["state"] for run in saved["runs"]} == {"not run"}
