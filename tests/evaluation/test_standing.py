"""Curves, gaps and averages of made-up runs, by numbers worked out by hand."""

import math

import pytest

from vqlab.evaluation.points import Point
from vqlab.evaluation.standing import Line, Sample, Way, average, curve_gap, point_gap, ways, whole

KL, INDICES = Way("samples", "kl"), Way("indices", "entropy")


def vae(arm, seed, rate, psnr):
    return Sample(arm, "VAE", seed, [Point("samples", 0, 0, {"kl": rate}, {"psnr": psnr})])


def prefixes(seed, *points):
    made = [
        Point("indices", 0, kept, {"fixed": 2 * rate, "entropy": rate}, {"psnr": psnr})
        for kept, (rate, psnr) in enumerate(points, 1)
    ]
    return Sample("mgvq", "MGVQ", seed, made)


# 10 dB a decade, in both seeds.
ANCHOR = Line("VAE", [vae("a", s, 1, 20 + s) for s in (0, 1)] + [
    vae("b", s, 10, 30 + s) for s in (0, 1)
], KL)  # fmt: skip


def test_a_curve_is_compared_seed_by_seed():
    runs = [prefixes(0, (1, 22), (10, 32)), prefixes(1, (1, 24), (10, 34))]
    found = curve_gap(Line("MGVQ", runs, INDICES), ANCHOR, "psnr")
    # 2 dB above in seed 0, 3 in seed 1: mean 2.5, standard error 0.5.
    assert found.quality == pytest.approx((2.5, 0.5)) and found.num_seeds == 2
    rates = [100 * (10**-0.2 - 1), 100 * (10**-0.3 - 1)]
    assert found.rate[0] == pytest.approx(sum(rates) / 2)
    assert found.interval == pytest.approx((1, 10)) and found.note == ""


def test_a_point_is_compared_at_its_own_rate():
    run = whole(prefixes(0, (1, 22), (10**0.5, 24)))
    assert len(run.points) == 1
    found = point_gap(Line("MGVQ", [run], INDICES), ANCHOR, "psnr")
    assert found.quality == (pytest.approx(24 - 25), None)
    assert found.rate is None and found.num_seeds == 1
    fixed = Line("MGVQ", [run], Way("indices", "fixed"))
    expected = 24 - (20 + 10 * math.log10(2 * 10**0.5))
    assert point_gap(fixed, ANCHOR, "psnr").quality[0] == pytest.approx(expected)


def test_what_cannot_be_compared_is_said():
    far = Line("far", [prefixes(0, (11, 35), (12, 36))], INDICES)
    found = curve_gap(far, ANCHOR, "psnr")
    assert found.quality is found.rate is found.interval is None and found.num_seeds == 0
    spans = "11.00 to 12.00 bits per pixel beside 1.00 to 10.00 bits per pixel"
    assert found.note == f"no overlap: {spans}"
    note = "12.00 bits per pixel lie outside of 1.00 to 10.00 bits per pixel"
    assert point_gap(far, ANCHOR, "psnr").note == note
    single = Line("one", [prefixes(0, (2, 25))], INDICES)
    assert curve_gap(single, ANCHOR, "psnr").note == "one point is no curve"
    assert curve_gap(far, single, "psnr").note == "the anchor has no curve"
    other = Line("other", [prefixes(7, (2, 25), (3, 26))], INDICES)
    assert curve_gap(other, ANCHOR, "psnr").note == "no seed in common"
    assert curve_gap(far, ANCHOR, "lpips").note == "the anchor has no curve"


def test_points_are_averaged_over_seeds():
    runs = [prefixes(0, (1, 22), (2, 30)), prefixes(1, (3, 24), (4, 32)), vae("a", 0, 1, 20)]
    first, second, third = average(runs)
    assert first.rates["entropy"] == (2, pytest.approx(1)) and first.quality["psnr"] == (23, 1)
    assert (first.kept, first.is_whole, second.is_whole) == (1, False, True)
    assert third.quality["psnr"] == (20, None) and third.is_whole and third.family == "VAE"
    assert ways(runs[0].points) == [Way("indices", "fixed"), INDICES]


def test_where_less_is_better_a_lower_curve_gains():
    def run(seed, *points):
        made = [Point("indices", 0, i, {"entropy": r}, {"lpips": q}) for i, (r, q) in points]
        return Sample("x", "X", seed, made)

    anchor = Line("a", [run(0, (1, (1, 0.4)), (2, (10, 0.2)))], INDICES)
    better = Line("b", [run(0, (1, (1, 0.3)), (2, (10, 0.1)))], INDICES)
    found = curve_gap(better, anchor, "lpips")
    assert found.quality == (pytest.approx(0.1), None) and found.rate[0] < 0
