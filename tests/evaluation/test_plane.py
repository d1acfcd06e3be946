"""Where things lie in the plane."""

import re

import pytest

from vqlab.evaluation import svg
from vqlab.evaluation.label_places import Box, LabelPlaces
from vqlab.evaluation.plane import COLOURS, INK, Plane, looks, select
from vqlab.evaluation.standing import Mark


def mark(arm, family, rates, psnr, *, kept=0, step=0.0, coding="indices", is_whole=True, **more):
    rates = {name: (rate, None) for name, rate in rates.items()}
    quality = {"psnr": (psnr, None)} | {name: (x, None) for name, x in more.items()}
    return Mark(arm, family, coding, step, kept, is_whole, rates, quality, 1)


def plane(marks, **ceilings):
    families = list(dict.fromkeys(one.family for one in marks))
    labels = {one.arm: one.arm for one in marks}
    nouns = dict.fromkeys(labels, "groups")
    return Plane(marks, looks(families, "VAE"), labels, nouns, {"psnr": ceilings})


def drawn(html):
    """{tip's first line: (x, y)} of the marks."""
    found = re.findall(r'class="hit" cx="([\d.]+)" cy="([\d.]+)" r="9"/><title>([^\n]*)', html)
    return {name: (float(x), float(y)) for x, y, name in found}


def test_ticks_are_round_numbers_on_the_axis():
    assert svg.nice(20.3, 28.9, 6) == [22, 24, 26, 28]
    assert svg.nice(0, 1, 5) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert svg.Scale(0.3, 6, 0, 1, True).ticks() == [0.5, 1, 2, 5]
    assert svg.Scale(0.9, 3.2, 0, 1, True).ticks() == [1, 1.5, 2, 3]
    assert svg.Scale(1, 100, 0, 300, True)(10) == pytest.approx(150)
    assert svg.Scale(1, 3, 300, 100)(2) == 200


def test_marks_stand_at_the_preferred_rate_or_their_own():
    both = mark("a", "VQ", {"fixed": 2.0, "entropy": 1.5}, 25)
    own = mark("b", "VAE", {"kl": 3.0}, 26, coding="samples")
    free = mark("c", "VQ", {"entropy": 0.0}, 9)  # one codeword alone: no place on this axis
    assert [(o.rate, o.x[0]) for o in select([both, own, free], "psnr", "entropy")] == [
        ("entropy", 1.5),
        ("kl", 3.0),
    ]
    assert select([both], "psnr", "fixed")[0].x == (2.0, None)
    assert select([both], "ssim", "fixed") == []
    assert plane([both]).draw("ssim", "fixed") == ""


def test_what_is_better_lies_higher_and_what_costs_more_further_right():
    cheap = mark("cheap", "VQ", {"entropy": 1.0}, 20, lpips=0.5)
    dear = mark("dear", "VAE", {"kl": 4.0}, 30, coding="samples", lpips=0.2)
    for metric in ("psnr", "lpips"):
        found = drawn(plane([cheap, dear]).draw(metric, "entropy"))
        assert found["dear"][0] > found["cheap"][0] and found["dear"][1] < found["cheap"][1]


def test_bad_prefixes_and_coarse_steps_do_not_squeeze_the_plane():
    whole = [mark(n, n, {"entropy": r}, p) for n, r, p in (("VQ", 1, 24), ("FSQ", 2, 25))]
    poor = mark("far", "VQ", {"entropy": 0.5}, 5, kept=1, is_whole=False)
    html = plane([*whole, poor], VQ=27.0).draw("psnr", "entropy")
    assert set(drawn(html)) == {"VQ", "FSQ"} and "1 point outside of these axes" in html
    assert "VQ, no rate" in html and 'class="ceiling"' in html


def test_families_are_told_apart_by_colour_and_by_shape():
    names = [f"family {i}" for i in range(len(COLOURS))]
    found = looks(["VAE", *names], "VAE")
    assert found["VAE"].colour == INK
    others = [found[name] for name in names]
    assert len({look.colour for look in others}) == len(names)
    assert len(set(others)) == len(names) and found["VAE"].shape not in {x.shape for x in others}


def test_labels_keep_off_each_other_and_off_marks():
    places = LabelPlaces(Box(0, 0, 400, 200))
    for x in (100, 130):
        places.take(x, 100, 5)
    boxes = []
    for x in (100, 130, 395):
        left, base = places.place("a label", x, 100)
        boxes.append(Box(left, base - 10.5, left + 6.6 * 7, base + 3.5))
    marks = [Box(95, 95, 105, 105), Box(125, 95, 135, 105)]
    for i, box in enumerate(boxes):
        assert not any(box.covers(other) for other in [*boxes[:i], *marks])
        assert 0 <= box.left and box.right <= 400
