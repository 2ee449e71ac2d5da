"""The page on strategies says what its script measures."""

import importlib.util
import pathlib
import re

import numpy as np
import pytest

import trainlab as tl

PAGES = pathlib.Path(tl.__file__).parents[1] / "scripts" / "pages"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("choosing_a_strategy", PAGES / "choosing_a_strategy.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def page():
    return (PAGES / "choosing_a_strategy.md").read_text(encoding="utf-8")


def test_the_quadratic_is_as_the_page_says(script, capsys):
    script.on_a_quadratic()
    printed = capsys.readouterr().out
    rows = [row for row in printed.splitlines() if re.match(r"\| (1 :|\d)", row)]
    assert len(rows) == 9
    assert [row for row in rows if row not in page()] == []


def test_the_grid_and_the_budget_are_as_the_page_says(script):
    text = page()
    assert ", ".join(map(str, script.RATES)) in text
    assert f"{script.EPOCHS * 45} evaluations" in text
    assert {name for name in script.CASES if f"| `{name}`" not in text} == set()


def test_best_rates_lie_inside_the_grid(script):
    best = [float(rate) for rate in re.findall(r"^\| `.*?\| ([\d.]+) \| [\d.]+ ±", page(), re.MULTILINE)]
    assert len(best) == len(script.CASES)
    assert min(script.RATES) < min(best) <= max(best) < max(script.RATES)


def test_the_formulas_are_those_of_the_strategies(script):
    """Heun on a quadratic, by the strategy itself."""
    import keras

    for name in ("SGD()", "Heun()"):
        model = keras.Sequential([keras.Input([1]), keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")])
        trainer = tl.Trainer(model, script.CASES[name][0](), optimizer=keras.optimizers.SGD(0.25), loss="mse")
        trainer.fit(np.ones([1, 1]), np.zeros([1, 1]), epochs=3, verbose=0)  # the curvature is 2
        assert float(model.layers[0].kernel.numpy()[0, 0]) == pytest.approx(script.factor(name, 0.5) ** 3, rel=1e-6)


@pytest.mark.slow
def test_the_digits_part_runs(script, capsys, monkeypatch):
    monkeypatch.setattr(script, "RATES", [0.4])
    monkeypatch.setattr(script, "EPOCHS", 2)
    script.on_digits(2)
    assert capsys.readouterr().out.count("±") == 2 * len(script.CASES)
