"""The TensorBoard of a run's own directory, which writes nothing before the run begins, or goes on."""

from typing import Any

import keras


class TensorBoard(keras.callbacks.TensorBoard):
    """Keras' own begins its files as soon as it has a model: also for a run that is finished, and only shown."""

    def set_model(self, model: keras.Model) -> None:
        """Keeps the model for later."""
        keras.callbacks.Callback.set_model(self, model)

    def on_train_begin(self, logs: Any = None) -> None:
        """Begins the files."""
        super().set_model(self.model)
        super().on_train_begin(logs)
