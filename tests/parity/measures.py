"""FID, KID, Inception Score, precision and recall beside pytorch-fid's, torch-fidelity's,
clean-fid's and ADM's (eval_metrics*.npz).

Both kinds of file hold sets of features; what differs is what the arrays are called.
"""

import functools

import numpy as np

from tests.parity.report import Report
from vqlab.evaluation import kernel_distance as kid
from vqlab.evaluation.frechet import frechet_distance
from vqlab.evaluation.inception_score import chunk_scores, order, split_scores
from vqlab.evaluation.moments import Moments
from vqlab.evaluation.precision_recall import (
    inside,
    precision_recall,
    squared_distances,
    squared_radii,
)

LIMIT = 1e-6  # of what is float64 on both sides
# ADM takes squared distances in float16, as |x|^2 - 2 x.y + |y|^2: right to a unit in the last
# place of the largest terms, not of their sum.
HALF_LIMIT = 2.0**-10


def check_eval_metrics(report: Report, config: dict) -> None:
    """All arrays of an eval_metrics file of the first kind."""
    take = report.take
    a, b = take("in/feat_a"), take("in/feat_b")
    few_a, few_b = take("in/feat_few_a"), take("in/feat_few_b")
    for name, rows in (("a", a), ("b", b)):
        _check_moments(report, f"out/fid/mu_{name}", f"out/fid/sigma_{name}", rows)
    report.close("out/fid/torch_fidelity_mu_a", Moments.of(a).mean)
    report.close("out/fid/pytorch_fid", _distance(a, b), LIMIT)
    for library in ("torch_fidelity", "adm"):
        report.close(f"out/fid/{library}", _distance(a, b, np.float32), LIMIT)
    spread = np.trace(Moments.of(a).covariance)
    report.add("out/fid/self", abs(_distance(a, a) - take("out/fid/self")) / spread, LIMIT)
    for library in ("pytorch_fid", "clean_fid"):
        report.close(f"out/fid_few/{library}", _distance(few_a, few_b), LIMIT)
    report.close("out/fid_few/torch_fidelity", _distance(few_a, few_b, np.float32), LIMIT)
    names = ("mu1", "sigma1", "mu2", "sigma2")
    pairs = zip(*(take(f"in/{name}") for name in names), strict=True)
    pairs = np.array([frechet_distance(*pair) for pair in pairs])
    for library in ("pytorch_fid", "torch_fidelity"):
        report.close(f"out/fid_pair/{library}", pairs, LIMIT)
    _check_kid(report, config, a, b)
    _check_scores(report, config)
    sets = {"fp16": (a, b), "fp32": (take("in/big_a"), take("in/big_b"))}
    for kind, (reference, samples) in sets.items():
        _check_precision_recall(report, kind, samples, reference)


def _check_kid(report: Report, config: dict, a: np.ndarray, b: np.ndarray) -> None:
    size, subsets = config["kid_subset_size"], config["kid_subsets"]
    rows = kid.subset_rows(len(a), len(b), subsets=subsets, size=size)
    for name, own in zip("ab", rows, strict=True):
        report.equal(f"out/kid/subset_indices_{name}", own)
    found = kid.subset_distances(a, b, *rows)
    report.close("out/kid/subset_mmd2", found)
    report.close("out/kid/mean_float64_features", found.mean(), LIMIT)
    _near(report, "out/kid/mean", found.mean(), found)
    _near(report, "out/kid/std", found.std(), found)
    n = min(len(a), len(b))
    for estimate in kid.ESTIMATES:
        ours = kid.kernel_distance(a[:n], b[:n], estimate=estimate)
        report.close(f"out/kid/full_equal_n/{estimate}", ours, LIMIT)
    report.close("out/kid/full_unequal_n_unbiased", kid.kernel_distance(a, b), LIMIT)
    drawn = (report.take(f"out/kid/clean_fid_indices_{name}") for name in "ab")
    found = kid.subset_distances(a, b, *drawn)
    _near(report, "out/kid/clean_fid", found.mean(), found)


def _check_scores(report: Report, config: dict) -> None:
    logits = report.take("in/logits")
    for name, seed in (("shuffled", kid.SEED), ("in_order", None)):
        scores = split_scores(logits, seed=seed)
        report.close(f"out/is/{name}_mean", scores.mean(), LIMIT)
        report.close(f"out/is/{name}_std", scores.std(), LIMIT)
    report.equal("out/is/permutation", order(len(logits)))
    report.close("out/is/one_split", split_scores(logits, splits=1).mean(), LIMIT)
    logits = report.take("in/is_acts") @ report.take("in/is_weight")
    small = config["adm_split_size"]
    for name, size in (("adm_split5000", 5000), (f"adm_split{small}", small)):
        report.close(f"out/is/{name}", chunk_scores(logits, size).mean())


def _check_precision_recall(report: Report, kind: str, samples, reference) -> None:
    radii = {"ref": squared_radii(reference), "sample": squared_radii(samples)}
    close = functools.partial(_half, report, samples, reference) if kind == "fp16" else report.close
    for name, own in radii.items():
        report.close(f"out/pr/exact_{kind}/radii_{name}", own, LIMIT)
        close(f"out/pr/adm_{kind}/radii_{name}", own)
    for name, points in (("sample_ref", samples), ("ref_ref", reference)):
        close(f"out/pr/adm_{kind}/dist_{name}", squared_distances(points, reference))
    report.equal(f"out/pr/exact_{kind}/sample_in_ref", inside(samples, reference, radii["ref"]))
    report.equal(f"out/pr/exact_{kind}/ref_in_sample", inside(reference, samples, radii["sample"]))
    both = dict(zip(("precision", "recall"), precision_recall(samples, reference), strict=True))
    for name, value in both.items():
        for library in ("exact", "adm", "torch_fidelity"):
            report.close(f"out/pr/{library}_{kind}/{name}", value, LIMIT)


def check_eval_metrics_extra(report: Report, config: dict) -> None:
    """All arrays of an eval_metrics file of the second kind."""
    for kind in sorted({n.split("/")[1] for n in report.arrays if n.startswith("in/pair_")}):
        names = ("mu1", "sigma1", "mu2", "sigma2")
        distance = frechet_distance(*(report.take(f"in/{kind}/{name}") for name in names))
        own = f"out/{kind.replace('pair', 'frechet')}"
        for library in ("pytorch_fid", "clean_fid", "torch_fidelity", "exact"):
            report.close(f"{own}/{library}", distance, LIMIT)
        for name in ("sqrtm_finite_real", "sqrtm_trace"):  # what scipy's root was, and no measure
            report.take(f"{own}/{name}")
    gen, ref = report.take("in/feats_gen"), report.take("in/feats_ref")
    for family in ("feats", "adm"):
        for name, rows in (("gen", gen), ("ref", ref)):
            _check_moments(report, f"out/{family}/mu_{name}", f"out/{family}/sigma_{name}", rows)
    report.close("out/feats/fid_exact", _distance(gen, ref), LIMIT)
    for name in ("feats/fid_torch_fidelity", "feats/fid_pytorch_fid", "adm/fid"):
        report.close(f"out/{name}", _distance(gen, ref, np.float32), LIMIT)
    _check_spatial(report)
    _check_kid_extra(report, config["kid"], gen, ref)
    _check_scores_extra(report, gen)
    _check_precision_recall_extra(report, gen, ref)


def _check_spatial(report: Report) -> None:
    """sFID is FID of the first seven channels."""
    maps = {name: report.take(f"in/spatial_{name}") for name in ("gen", "ref")}
    rows = {name: x[..., :7].reshape(len(x), -1) for name, x in maps.items()}
    for name, own in rows.items():
        places = (f"out/adm/spatial_{kind}_{name}" for kind in ("mu", "sigma"))
        _check_moments(report, *places, own)
    report.close("out/adm/sfid", _distance(rows["gen"], rows["ref"], np.float32), LIMIT)


def _check_kid_extra(report: Report, config: dict, gen, ref) -> None:
    rows = kid.subset_rows(
        len(gen), len(ref), subsets=config["subsets"], size=config["subset_size"]
    )
    for name, own in zip(("gen", "ref"), rows, strict=True):
        report.equal(f"out/kid/torch_fidelity_rows_{name}", own)
    found = kid.subset_distances(gen, ref, *rows)
    report.close("out/kid/torch_fidelity_subsets", found)
    for name, value in (("mean", found.mean()), ("std", found.std())):
        report.close(f"out/kid/torch_fidelity_{name}_f64", value, LIMIT)
        _near(report, f"out/kid/torch_fidelity_{name}", value, found)
    rbf = functools.partial(kid.rbf, sigma=10.0)
    found = kid.subset_distances(gen, ref, *rows, kernel=rbf)
    report.close("out/kid/torch_fidelity_rbf10_mean_f64", found.mean(), LIMIT)
    drawn = (report.take(f"out/kid/clean_fid_rows_{name}") for name in ("gen", "ref"))
    found = kid.subset_distances(gen, ref, *drawn)
    report.close("out/kid/clean_fid_f64", found.mean(), LIMIT)
    _near(report, "out/kid/clean_fid", found.mean(), found)
    n = min(len(gen), len(ref))
    for estimate in kid.ESTIMATES:
        ours = kid.kernel_distance(gen[:n], ref[:n], estimate=estimate)
        report.close(f"out/kid/full_equal_n_{estimate}", ours, LIMIT)
    report.close("out/kid/full_all_rows_unbiased", kid.kernel_distance(gen, ref), LIMIT)


def _check_scores_extra(report: Report, gen: np.ndarray) -> None:
    logits = report.take("in/logits")
    ways = {"default": {}, "noshuffle": {"seed": None}, "splits1": {"splits": 1}}
    for name, arguments in ways.items():
        scores = split_scores(logits, **arguments)
        report.close(f"out/isc/{name}_mean", scores.mean(), LIMIT)
        report.close(f"out/isc/{name}_std", scores.std(), LIMIT)
    report.equal("out/isc/permutation_seed2020", order(len(logits)))
    logits = gen @ report.take("in/fc_weight").T
    report.close("out/adm/inception_score_split100", chunk_scores(logits, 100).mean())
    report.close("out/adm/inception_score_default", chunk_scores(logits).mean())


def _check_precision_recall_extra(report: Report, gen: np.ndarray, ref: np.ndarray) -> None:
    radii = {"gen": squared_radii(gen), "ref": squared_radii(ref)}
    for name, (points, others) in {"gen_in_ref": (gen, ref), "ref_in_gen": (ref, gen)}.items():
        own = radii[name[-3:]]
        distance, radius = np.sqrt(squared_distances(points, others)), np.sqrt(own)
        report.close(f"out/prc/margin_{name}", ((radius - distance) / radius).max(1), LIMIT)
        for family in ("", "x40_"):
            report.equal(f"out/adm/{family}{name}", inside(points, others, own))
    for name, own in radii.items():
        report.close(f"out/prc/radii_{name}", np.sqrt(own), LIMIT)
        _half(report, gen, ref, f"out/adm/radii_{name}", own[:, None])
        report.close(f"out/adm/x40_radii_{name}", own[:, None] * 40.0**2)
    precision, recall = precision_recall(gen, ref)
    report.close("out/prc/exact", [precision, recall], LIMIT)
    mean = 2 * precision * recall / (precision + recall)
    report.close("out/prc/torch_fidelity", [precision, recall, mean], LIMIT)
    for family in ("", "x40_"):
        report.close(f"out/adm/{family}precision", precision, LIMIT)
        report.close(f"out/adm/{family}recall", recall, LIMIT)


def _check_moments(report: Report, mean: str, covariance: str, rows: np.ndarray) -> None:
    """Of rows in three batches, merged."""
    parts = np.array_split(rows, 3)
    own = functools.reduce(Moments.add, parts, Moments.empty(rows.shape[1]))
    is_float32 = report.arrays[mean].dtype == np.float32
    report.close(mean, own.mean, 1e-4 if is_float32 else LIMIT)
    report.close(covariance, own.covariance, LIMIT)


def _distance(a: np.ndarray, b: np.ndarray, mean_dtype: type = np.float64) -> float:
    """Of features whose means are summed in `mean_dtype`, float32 in some libraries."""
    means = (np.mean(rows.astype(mean_dtype), axis=0) for rows in (a, b))
    covariances = (Moments.of(rows).covariance for rows in (a, b))
    return frechet_distance(*(x for pair in zip(means, covariances, strict=True) for x in pair))


def _half(report: Report, x: np.ndarray, y: np.ndarray, name: str, ours: np.ndarray) -> None:
    """Squared distances or radii of sets whose distances are float16 there."""
    terms = 2 * max(np.square(rows.astype(np.float64)).sum(1).max() for rows in (x, y))
    error = np.abs(ours - report.take(name).astype(np.float64)).max() / terms
    report.add(name, error, HALF_LIMIT, "of the terms, float16 there")


def _near(report: Report, name: str, ours: float, subsets: np.ndarray) -> None:
    """A mean over subsets, whose kernels are float32 there, relative to the largest subset."""
    error = abs(ours - float(report.take(name))) / np.abs(subsets).max()
    report.add(name, error, 1e-4, "of the largest subset")
