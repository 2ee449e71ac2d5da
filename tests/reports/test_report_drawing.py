"""Curves: thinned without losing what matters, on scales that people can read."""

import math
import random
import re

import pytest
from reporting import begin, epoch, fifty, four, gaps, learned, one, written

from trainlab.reports.drawing.panels import coloured, panels_of
from trainlab.reports.drawing.scales import across, scale_of, tick_texts
from trainlab.reports.drawing.sparks import spark_svg, spark_text
from trainlab.reports.drawing.svg import panel_svg
from trainlab.reports.drawing.thinning import pieces, thinned
from trainlab.reports.reading.run import read_runs

NAN = float("nan")


def curve(num, gaps=(), seed=0):
    rng = random.Random(seed)
    return [NAN if any(a <= i < b for a, b in gaps) else math.sin(i / 50) + rng.gauss(0, 0.1) for i in range(num)]


@pytest.mark.parametrize("num", [1, 2, 30, 999, 20_000])
@pytest.mark.parametrize("most", [8, 200])
def test_no_extreme_is_lost(num, most):
    values = curve(num)
    values[num // 3] = 50.0
    values[num // 2 - 1] = -70.0
    kept = thinned(values, most)
    assert len(kept) <= max(4 * most, 1) and kept == sorted(set(kept)) and kept[0] == 0 and kept[-1] == num - 1
    for k in range(most):  # of every stretch that can be told apart, not only of the whole
        stretch = range(k * num // most, (k + 1) * num // most)
        if stretch and num > 4 * most:
            of = [values[i] for i in kept if i in stretch]
            assert (min(of), max(of)) == (min(values[i] for i in stretch), max(values[i] for i in stretch))


@pytest.mark.parametrize("gap", [(0, 7), (500, 501), (3000, 3300), (4999, 5000), (100, 4900)])
def test_no_gap_is_closed(gap):
    values = curve(5000, [gap])
    kept = thinned(values, 50)
    whole = pieces(values, range(5000))
    thin = pieces(values, kept)
    assert len(thin) == len(whole) and [(p[0], p[-1]) for p in thin] == [(p[0], p[-1]) for p in whole]


def test_nothing_but_gaps():
    assert pieces([NAN] * 900, thinned([NAN] * 900, 10)) == [] and thinned([], 10) == []


@pytest.mark.parametrize(
    ("values", "low", "high"),
    [
        ([0.0, 1.0], 0, 1),
        ([3.0], 3, 3),
        ([0.0], 0, 0),
        ([-5.0, NAN, 5.0], -5, 5),
        ([1e-9, 2e-9], 1e-9, 2e-9),
        ([1e300, -1e300], -1e300, 1e300),
    ],
)
def test_a_scale_holds_its_values(values, low, high):
    scale = scale_of(values)
    assert 0 <= scale.place(low) <= scale.place(high) <= 1 and scale.low < scale.high
    ticks = scale.ticks()
    assert 1 <= len(ticks) <= 12 and all(
        scale.low - 1e-9 * abs(scale.low) <= tick <= scale.high + 1e-9 * abs(scale.high) for tick in ticks
    )
    assert len(set(tick_texts(ticks))) == len(ticks)


def test_scales_of_nothing():
    assert scale_of([]) is None and scale_of([NAN]) is None and across([NAN, 0.0]) is None


def test_losses_of_many_sizes_are_drawn_by_their_logarithm():
    scale = scale_of([100.0, 1.0, 0.01], may_be_log=True)
    assert scale.is_log and scale.ticks() == [0.01, 0.1, 1.0, 10.0, 100.0]
    assert scale.place(10) - scale.place(1) == pytest.approx(scale.place(0.1) - scale.place(0.01))
    assert not scale_of([1.0, 0.9], may_be_log=True).is_log and not scale_of([100.0, 0.0], may_be_log=True).is_log
    assert not scale_of([100.0, 0.01]).is_log


def test_what_goes_astray_does_not_hide_the_others():
    values = [1 - i / 100 for i in range(90)] + [1e12] * 5
    for may_be_log in (False, True):
        scale = scale_of(values, may_be_log)
        assert scale.is_cut and scale.high < 1e5
    assert not scale_of([1 - i / 100 for i in range(90)]).is_cut


def test_few_runs_are_all_coloured_and_of_many_the_best(tmp_path):
    assert coloured(read_runs(four(tmp_path / "4"))) == [0, 1, 2, 3]
    runs = read_runs(fifty(tmp_path / "50", epochs=5, extra=0))
    best = sorted(range(50), key=lambda i: -max(runs[i].series["val_accuracy"]))[:5]
    assert coloured(runs) == best


def drawn(runs, title, axis="updates"):
    [panel] = [panel for panel in panels_of(runs) if panel.title == title]
    return panel_svg(panel, axis, axis, coloured(runs), "clip")


def test_training_and_validation_share_a_panel(tmp_path):
    runs = read_runs(one(tmp_path))
    assert [panel.title for panel in panels_of(runs)] == ["loss", "accuracy", "learning rate", "examples a second"]
    svg = drawn(runs, "loss")
    assert '<g class="c1">' in svg and '<g class="c2 dashed">' in svg  # told apart by more than their colour


def test_where_points_are_drawn(tmp_path):
    """Two epochs, by hand: the axis begins at 0 and ends at the last update."""
    path = written(tmp_path / "a", [begin(), epoch(0, 50, 1.0, accuracy=0.0), epoch(1, 100, 2.0, accuracy=1.0)])
    svg = drawn(read_runs([path]), "accuracy")
    (x0, y0), (x1, y1) = [(float(a), float(b)) for a, b in re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', svg)]
    assert x1 == 460 - 26 and x0 == pytest.approx((52 + x1) / 2)
    assert y0 - y1 == pytest.approx((250 - 38 - 8) / 1.1, abs=0.2)  # 5 % free above and below


def test_two_epochs_are_marked_and_thousands_are_not(tmp_path):
    two = read_runs([written(tmp_path / "two", [begin(), *learned(2)])])
    assert drawn(two, "loss").count("<circle") == 4
    long = read_runs([written(tmp_path / "long", [begin(), *learned(5000)])])
    svg = drawn(long, "loss")
    assert svg.count("<circle") == 0 and svg.count("L") < 2200  # of 10,000 points


def test_a_gap_breaks_the_line(tmp_path):
    runs = read_runs(gaps(tmp_path)[:1])
    loss = re.search(r'class="c1"><title>loss</title><path d="([^"]*)"', drawn(runs, "loss"))[1]
    assert loss.count("M") == 3 and "nan" not in loss
    assert re.search(r'class="c1"><title>accuracy</title><path d="([^"]*)"', drawn(runs, "accuracy"))[1].count("M") == 1


def test_what_is_not_of_every_epoch_is_one_line(tmp_path):
    lines = [begin(), *(epoch(i, i + 1, i + 1.0, loss=1.0, **({"val_loss": 2.0} if i % 5 == 4 else {})) for i in range(50))]
    svg = drawn(read_runs([written(tmp_path / "a", lines)]), "loss")
    assert re.search(r"<title>val_loss</title><path d=\"([^\"]*)", svg)[1].count("M") == 1


def test_unknown_axes_are_not_drawn(tmp_path):
    runs = read_runs([written(tmp_path / "a", learned(3))])  # no beginning: nothing says how many evaluations
    assert drawn(runs, "loss", "evaluations") is None and drawn(runs, "loss", "seconds") is not None


def test_ends_of_curves_are_numbered_apart(tmp_path):
    svg = drawn(read_runs(four(tmp_path)), "learning rate")  # which all end at the same place
    places = sorted(float(y) for y in re.findall(r'<text class="end t\d" x="[\d.]+" y="([\d.]+)"', svg))
    assert len(places) == 4 and all(b - a >= 10.9 for a, b in zip(places, places[1:], strict=False)) and places[-1] <= 250


def test_ends_that_do_not_meet_are_where_their_curves_end(tmp_path):
    runs = read_runs(four(tmp_path))
    for title in ("accuracy", "examples a second"):
        svg = drawn(runs, title, "evaluations")  # which end at four places
        for k in range(1, 5):
            group = re.findall(rf'<g class="c{k}[^"]*"><title>[^<]*</title><path d="[^"]*L([\d.]+) ([\d.]+)"', svg)[-1]
            x, y = re.search(rf'<text class="end t{k}" x="([\d.]+)" y="([\d.]+)"', svg).groups()
            assert float(x) - 4 == pytest.approx(float(group[0]), abs=0.2) and float(y) - 4 == pytest.approx(
                float(group[1]), abs=6.1
            )


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([], ""),
        ([NAN], ""),
        ([1.0], "▄"),
        ([0.0, 7.0], "▁█"),
        ([1.0, NAN, 0.0], "█ ▁"),
        ([float(i) for i in range(8)], "▁▂▃▄▅▆▇█"),
    ],
)
def test_curves_as_text(values, text):
    assert spark_text(values) == text
    assert len(spark_text(values * 100)) <= 24


def test_curves_as_small_pictures():
    svg = spark_svg([1.0, NAN, 0.5, 0.25], "<loss>")
    assert "&lt;loss&gt;" in svg and "<loss>" not in svg and svg.count("M") == 2 and spark_svg([NAN], "x") == ""
