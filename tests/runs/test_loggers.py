"""The page on loggers: its blocks run, and a run that was stopped has every value once."""

import json
import pathlib
import re
import shutil
import sys

import keras
import numpy as np
import pytest
from logging_stand_ins import Store, comet_of, mlflow_of, trackio_of, wandb_of
from small import compiled, dense_model, regression

import trainlab as tl

PAGE = pathlib.Path(tl.__file__).parents[1] / "scripts" / "pages" / "loggers.md"
X, Y = regression(40)
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
# The block, its stand-in, the row after which the process gets SIGINT, and how many rows there are in all.
CASES = {
    "wandb, batches": (BLOCKS[0], wandb_of, 13, 6 * (5 + 1)),
    "wandb, epochs": (BLOCKS[1], wandb_of, 3, 6),
    "mlflow": (BLOCKS[2], mlflow_of, 5, 2 * 6),
    "comet": (BLOCKS[3], comet_of, 7, 2 * 6),
    "trackio": (BLOCKS[4], trackio_of, 2, 6),
}


def run_block(block, stand_in, store, where, monkeypatch):
    """Runs a block as a program of its own: in a directory, with new objects, and the store that there is."""
    where.mkdir(exist_ok=True)
    monkeypatch.chdir(where)
    for name, module in stand_in(store).items():
        monkeypatch.setitem(sys.modules, name, module)
    layers = [lambda: keras.layers.Dropout(0.5), lambda: keras.layers.Dense(1)]
    model = compiled(dense_model(*layers), keras.optimizers.SGD(0.1, name="sgd"), metrics=["mae"])  # a process counts names anew
    names = {"model": model, "x": X, "y": Y, "__name__": "block"}
    exec(compile(block, "loggers.md", "exec"), names)
    return names["trainer"]


def whole(case, tmp_path, monkeypatch):
    """What is stored of a run that nobody stops."""
    block, stand_in, _, num_rows = case
    store = Store()
    run_block(block, stand_in, store, tmp_path / "whole", monkeypatch)
    assert len(store.rows) == num_rows
    return store


def as_text(rows):
    return [json.dumps([step, values], sort_keys=True) for step, values in rows]


def test_the_page_has_these_blocks():
    assert len(BLOCKS) == 5
    assert [
        name for block in BLOCKS for name in re.findall(r"^import (wandb|mlflow|comet_ml|trackio)$", block, re.MULTILINE)
    ] == [
        "wandb",
        "wandb",
        "mlflow",
        "comet_ml",
        "trackio",
    ]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*not in checkpoints")
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_every_value_once_over_a_resume(case, tmp_path, monkeypatch):
    block, stand_in, stop_at, num_rows = case
    store = Store(stop_at)
    with pytest.raises(KeyboardInterrupt):
        run_block(block, stand_in, store, tmp_path / "stopped", monkeypatch)
    assert stop_at <= len(store.rows) < num_rows
    trainer = run_block(block, stand_in, store, tmp_path / "stopped", monkeypatch)
    assert trainer.resumed_at
    assert as_text(store.rows) == as_text(whole(case, tmp_path, monkeypatch).rows)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*not in checkpoints")
@pytest.mark.parametrize("name", ["wandb, batches", "mlflow", "trackio"])
def test_after_a_kill_what_is_logged_again_is_the_same(name, tmp_path, monkeypatch):
    block, stand_in, _, _ = CASES[name]
    block = block.replace('run="runs/a"', 'run=tl.Run("runs/a", save_steps=5, keep=9)')
    store = Store()
    run_block(block, stand_in, store, tmp_path / "killed", monkeypatch)
    for path in (tmp_path / "killed" / "runs" / "a" / "checkpoints").iterdir():
        if path.is_dir() and int(path.name.rpartition("-")[2]) > 15:  # as if it had been killed before the next was written
            shutil.rmtree(path)
    seen = set(as_text(_without_row_numbers(store.rows, name)))
    run_block(block, stand_in, store, tmp_path / "killed", monkeypatch)
    assert len(store.rows) > len(seen)
    assert set(as_text(_without_row_numbers(store.rows, name))) == seen


def _without_row_numbers(rows, name):
    """W&B numbers rows as they come; what they are drawn over is among the values."""
    return [(0 if name.startswith("wandb") else step, values) for step, values in rows]


@pytest.mark.slow
@pytest.mark.parametrize("name, kept", [("wandb, batches", "get_state"), ("comet", "CometStep(experiment)")])
def test_without_what_the_page_keeps_numbers_begin_again(name, kept, tmp_path, monkeypatch):
    """The control."""
    block, stand_in, stop_at, _ = case = CASES[name]
    block = block.replace("def get_state", "def get_nothing") if kept == "get_state" else block.replace(f", {kept}", "")
    assert block != case[0]
    store = Store(stop_at)
    for _ in range(2):
        with pytest.warns(UserWarning, match="not in checkpoints"):
            try:
                run_block(block, stand_in, store, tmp_path / "stopped", monkeypatch)
            except KeyboardInterrupt:
                continue
    assert as_text(store.rows) != as_text(whole(case, tmp_path, monkeypatch).rows)


@pytest.mark.slow
def test_the_logger_of_epochs_leaves_calls_whole(tmp_path, monkeypatch):
    """With the hooks given back many updates are one call, as without a logger."""

    def num_calls(block):
        calls = []
        monkeypatch.setattr(
            "trainlab.loop.Loop.run", lambda self, *args, **kwargs: (calls.append(1), run(self, *args, **kwargs))[1]
        )
        run_block(block, wandb_of, Store(), tmp_path / str(len(block)), monkeypatch)
        return len(calls)

    run = tl.Trainer.__init__.__globals__["Loop"].run
    given_back = num_calls(BLOCKS[1])
    by_batch = num_calls(re.sub(r"    on_batch_end, on_train_batch_end = .*\n", "", BLOCKS[1]))
    assert given_back < by_batch
    assert by_batch >= 30
    assert np.isfinite(given_back)
