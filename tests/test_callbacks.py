import json

import keras
import numpy as np

from trainlab.callbacks import JsonLines


def records(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_record_an_epoch_with_the_updates_so_far(tmp_path):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    x, y = np.ones((6, 2)), np.ones((6, 1))
    path = tmp_path / "metrics.jsonl"
    history = model.fit(x, y, batch_size=2, epochs=2, verbose=0, validation_data=(x, y), callbacks=[JsonLines(path)])
    first, second = records(path)
    assert (first["epoch"], first["step"], second["epoch"], second["step"]) == (1, 3, 2, 6)
    assert [first["loss"], second["loss"]] == history.history["loss"]
    assert list(first) == ["epoch", "step", "loss", "val_loss"]


def test_every_line_is_json_whatever_the_value(tmp_path):
    callback = JsonLines(tmp_path / "metrics.jsonl")
    callback.write({"nan": float("nan"), "inf": np.float32("inf"), "vector": np.array([1.0, np.nan]), "n": np.int64(3)})
    callback.write({"tensor": keras.ops.ones(()), "text": "adam", "none": None})
    assert records(callback.path) == [
        {"nan": None, "inf": None, "vector": [1.0, None], "n": 3},
        {"tensor": 1.0, "text": "adam", "none": None},
    ]
