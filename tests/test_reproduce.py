"""The evidence: the problems are the published ones, what misses is said, and all of it runs."""

import json
import math
import pathlib
import sys

import numpy as np
import pytest

SCRIPTS = pathlib.Path(__file__).parent.parent / "scripts"
sys.path.insert(0, str(SCRIPTS))

import reproduce  # noqa: E402
from reproducing import deepobs, gan, mnist_1d, quadratic  # noqa: E402
from reproducing.section import Section, assembled  # noqa: E402


def test_the_quadratic_is_deepobs():
    q = deepobs.matrix()
    assert deepobs.loss(np.ones(100)) == pytest.approx(353.4467654661157, abs=1e-9)
    eigenvalues = np.linalg.eigvalsh(q)
    np.testing.assert_allclose(q, q.T, atol=1e-12)
    assert (eigenvalues[:90] < 1).all() and (eigenvalues[90:] > 30).all() and 0 < eigenvalues[0] < eigenvalues[-1] < 60
    rotation = deepobs._rotation(7, np.random.RandomState(0))
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(7), atol=1e-12)
    assert np.linalg.det(rotation) == pytest.approx(1)
    least = deepobs.least()
    assert least < deepobs.loss(deepobs.examples("test").mean(axis=0)) and deepobs.loss(np.ones(100), "validation") != least
    assert all(deepobs.examples(part).shape == (1000, 100) for part in deepobs.SEEDS)


def test_the_model_has_the_loss_of_the_formula():
    x = deepobs.examples("test")[: deepobs.NUM_EVALUATED]
    assert float(quadratic.Quadratic().compute_loss(x)) == pytest.approx(deepobs.loss(np.ones(100)), rel=1e-6)


@pytest.mark.parametrize("name, size", [("logistic regression", 410), ("MLP", 15_210), ("CNN", 5_210), ("GRU", 5_134)])
def test_the_models_of_mnist_1d_are_as_large_as_the_published_ones(name, size):
    assert mnist_1d.MODELS[name][0]().count_params() == size


def test_what_a_generator_has_found():
    edge = np.linspace(-1, 1, 4)
    centres = np.array([(a, b) for a in edge for b in edge])
    assert gan.found(centres) == (16, 1.0)
    assert gan.found(centres[:3] + 0.1) == (3, 1.0)
    assert gan.found(np.concatenate([centres[:1], centres[1:2] + 0.3])) == (1, 0.5)
    assert gan.found(np.concatenate([np.repeat(centres[:1], 300, axis=0), centres[1:2]]))[0] == 1  # one point is no find


@pytest.mark.parametrize("wanted, seen, spread, is_met", [
    (1.0, 1.05, 0.1, True), (1.0, 1.15, 0.1, False), (-1.0, -1.15, 0.1, False), (1.0, math.nan, 0.1, False),
    (2.0, 2.0, 0.0, True),
])  # fmt: skip
def test_a_claim(wanted, seen, spread, is_met):
    section = Section("one", "One")
    assert section.claim("a thing", wanted, seen, spread) is is_met
    assert ("**not met**" in section.markdown()) is not is_met


def test_what_was_missed_and_what_was_not_run_stands_above_all(tmp_path):
    for name, seen in (("one", 1.0), ("two", 9.0)):
        section = Section(name, name.title(), is_short=name == "two")
        section.claim("a thing", 1.0, seen, 0.1)
        section.table(["", "number"], [("a", 0.123456789)])
        section.write(tmp_path)
    text = assembled(["one", "two", "three"], tmp_path, "a machine")
    head, body = text.split("\n## ", 1)
    assert "1 of 2 figures" in head and "**Not met:** Two: a thing." in head and "**Not run:** three." in head
    assert "| a | 0.123457 |" in body and body.count("short form") == 1
    (tmp_path / "two.json").unlink()
    head = assembled(["one"], tmp_path, "a machine").split("\n## ")[0]
    assert "**Not met:** nothing." in head and "**Not run:** nothing." in head  # control


def test_parts_that_are_kept_from_another_machine_say_so(tmp_path):
    for name, machine in (("one", "here"), ("two", "there"), ("three", "")):
        Section(name, name.title(), machine=machine).write(tmp_path)
    head, *parts = assembled(["one", "two", "three"], tmp_path, "here").split("\n## ")
    assert "Run on here." in head
    assert [part.split("(`--parts ")[1].strip() for part in parts] == [
        "one`, 0 s.)", "two`, 0 s, on there.)", "three`, 0 s, on a machine that was not kept.)"
    ]  # fmt: skip


@pytest.mark.slow
def test_the_short_form(tmp_path, capsys):
    """All parts, in the order of the page; figures that cost nothing are met even so."""
    parts = [name for name in reproduce.PARTS if name != "comparing"]
    reproduce.main(["--short", "--out", str(tmp_path), "--parts", *parts])
    text = (tmp_path / "EVIDENCE.md").read_text(encoding="utf-8")
    places = [text.index(f"## {reproduce.PARTS[name]}") for name in parts]
    assert places == sorted(places)
    assert "**Not met:** nothing." in text and text.count("short form") == len(parts)
    for name in parts:
        found = json.loads((tmp_path / "evidence" / f"{name}.json").read_text(encoding="utf-8"))
        assert found["numbers"] and found["is_short"]
    assert {path.name for path in (tmp_path / "evidence").glob("*.png")} == {
        f"{name}.png" for name in ("quadratic", "game", "orders", "gan", "mnist_1d")
    }


@pytest.mark.slow
def test_the_comparison_runs(tmp_path):
    reproduce.main(["--short", "--out", str(tmp_path), "--parts", "comparing"])
    import trainlab as tl

    assert (tmp_path / "evidence" / "comparing.json").exists() is hasattr(tl, "compare")


def test_the_page_is_what_was_measured():
    page = (SCRIPTS / "EVIDENCE.md").read_text(encoding="utf-8")
    text = assembled(list(reproduce.PARTS), SCRIPTS / "evidence", "MACHINE")
    before, after = text.split("MACHINE")
    assert page.startswith(before) and page.endswith(after)
    for path in (SCRIPTS / "evidence").glob("*.json"):
        section = Section.read(path)
        assert not section.is_short
        for claim in section.claims:
            assert claim["met"] is (abs(claim["seen"] - claim["wanted"]) <= claim["spread"])
            assert claim["met"] or f"{section.title}: {claim['what']}" in page
    for name in ("quadratic", "game", "stability", "mnist_1d", "gan"):
        assert f"(`--parts {name}`" in page
    assert all((SCRIPTS / "evidence" / name).stat().st_size < 100_000 for name in _pictures(page))


def _pictures(page):
    found = [line.split("(evidence/")[1].rstrip(")") for line in page.splitlines() if line.startswith("![")]
    assert found
    return found
