"""Points and directions in parameter space: what strategies calculate with."""

from trainlab.parameters import tensorflow_internals
from trainlab.parameters.rows import Rows
from trainlab.parameters.table import Table
from trainlab.parameters.vector import Vector, dense

__all__ = ["Rows", "Table", "Vector", "dense", "tensorflow_internals"]
