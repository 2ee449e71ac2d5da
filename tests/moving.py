"""Data that move on while they are read, of many kinds."""

import random

import keras
import numpy as np

SIZE = 9


class Plain(keras.utils.PyDataset):
    """Batches of two numbers; counts what it hears."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.order, self.begun, self.ended = list(range(SIZE)), 0, 0

    def __len__(self):
        return -(-SIZE // 2)

    def __getitem__(self, index):
        return (np.array(self.order[2 * index : 2 * index + 2]),)

    def on_epoch_begin(self):
        self.begun += 1

    def on_epoch_end(self):
        self.ended += 1


class Reordered(Plain):
    """Takes another order after each pass, by random numbers of its own."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.random = random.Random(3)

    def on_epoch_end(self):
        super().on_epoch_end()
        self.random.shuffle(self.order)


class Augmented(Plain):
    """Adds noise from a generator of its own to every batch."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.random = np.random.default_rng(3)

    def __getitem__(self, index):
        return (super().__getitem__(index)[0] + self.random.normal(),)


class Torchlike(Augmented):
    """The same, and keeps account of its state as loaders of PyTorch do."""

    def state_dict(self):
        return {"random": self.random.bit_generator.state}

    def load_state_dict(self, state):
        self.random.bit_generator.state = state["random"]


class Grainlike(Reordered):
    """Keeps account of its state as Grain's iterators do; it is no plain JSON."""

    def get_state(self):
        return {"order": np.array(self.order), "random": self.random.getstate(), "name": b"x"}

    def set_state(self, state):
        assert state["name"] == b"x"
        self.order = state["order"].tolist()
        self.random.setstate(state["random"])


class Endless(Plain):
    """Has no length."""

    __len__ = None
    num_batches = None

    def __getitem__(self, index):
        return super().__getitem__(index % 4)


def batches(num_batches=12):
    return ((np.array([i, i]),) for i in range(num_batches))


class Sliced(keras.utils.PyDataset):
    """Arrays in batches, the first rows first."""

    def __init__(self, *arrays, batch_size=4):
        super().__init__()
        self._arrays, self._size = arrays, batch_size

    def __len__(self):
        return -(-len(self._arrays[0]) // self._size)

    def __getitem__(self, index):
        return tuple(array[self._size * index : self._size * (index + 1)] for array in self._arrays)
