"""Data sets: each function returns a `Data`, a named problem ready for `Trainer.fit`."""

from trainlab.datasets.array_files import npy, npz
from trainlab.datasets.data import Data, Integers
from trainlab.datasets.folders import image_folder, text_folder
from trainlab.datasets.generated import gaussian_grid, mnist_1d
from trainlab.datasets.libraries import grain, hugging_face, tfds
from trainlab.datasets.named import abalone, cifar10, digits, fashion_mnist, mnist
from trainlab.datasets.records import tfrecord
from trainlab.datasets.structures import Batches
from trainlab.datasets.tables.reading import csv, parquet

__all__ = [
    "Batches",
    "Data",
    "Integers",
    "abalone",
    "cifar10",
    "csv",
    "digits",
    "fashion_mnist",
    "gaussian_grid",
    "grain",
    "hugging_face",
    "image_folder",
    "mnist",
    "mnist_1d",
    "npy",
    "npz",
    "parquet",
    "text_folder",
    "tfds",
    "tfrecord",
]
