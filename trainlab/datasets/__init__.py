"""Data sets: each function returns a `Data`, a named problem ready for `Trainer.fit`."""

from trainlab.datasets.array_files import npz
from trainlab.datasets.data import Data
from trainlab.datasets.named import cifar10, digits, fashion_mnist, mnist

__all__ = ["Data", "cifar10", "digits", "fashion_mnist", "mnist", "npz"]
