"""What configs/heun.gin trains, with plain Keras: `python plain_script.py MODEL.keras EPOCHS`; it knows nothing of trainlab."""

import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np


def main() -> None:
    """Trains on the digits, validates each epoch, saves the model."""
    path, epochs = sys.argv[1:]
    with np.load(Path(__file__).parents[3] / "trainlab" / "datasets" / "digits.npz") as arrays:
        x, y = arrays["images"].reshape(-1, 8, 8, 1).astype("float32") / 16, arrays["labels"].astype("int32")
    order = np.random.default_rng(0).permutation(len(x))
    held_out, rest = order[:359], order[359:]
    layers = keras.layers
    model = keras.Sequential([keras.Input([8, 8, 1]), layers.Flatten(), layers.Dense(128, "relu"), layers.Dense(10)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.SGD(0.2), loss=loss, metrics=["accuracy"])
    held_out_data = x[held_out], y[held_out]
    model.fit(x[rest], y[rest], batch_size=64, epochs=int(epochs), validation_data=held_out_data, verbose=2)
    print("test", model.evaluate(*held_out_data, batch_size=64, verbose=0))
    model.save(path)


if __name__ == "__main__":
    main()
