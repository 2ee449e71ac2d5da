"""Callbacks that write down what they hear."""

import keras


class Listener(keras.callbacks.Callback):
    """Writes down every hook that is called, and with which number."""

    def __init__(self):
        super().__init__()
        self.heard = []

    def on_train_begin(self, logs=None):
        self.heard.append("train begin")

    def on_train_end(self, logs=None):
        self.heard.append("train end")

    def on_epoch_begin(self, epoch, logs=None):
        self.heard.append(f"epoch {epoch} begin")

    def on_epoch_end(self, epoch, logs=None):
        self.heard.append(f"epoch {epoch} end {sorted(logs)}")

    def on_test_begin(self, logs=None):
        self.heard.append("test begin")

    def on_test_end(self, logs=None):
        self.heard.append("test end")


class BatchListener(Listener):
    """Hears every update, too."""

    def on_train_batch_begin(self, batch, logs=None):
        self.heard.append(f"batch {batch} begin")

    def on_train_batch_end(self, batch, logs=None):
        self.heard.append(f"batch {batch} end {sorted(logs)}")
