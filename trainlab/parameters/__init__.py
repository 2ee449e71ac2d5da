"""Points and directions in parameter space: what strategies calculate with."""

from trainlab.parameters import tensorflow_internals
from trainlab.parameters.rows import Rows
from trainlab.parameters.table import Table
from trainlab.parameters.vector import Vector, ask_beforehand, dense

__all__ = ["Rows", "Table", "Vector", "ask_beforehand", "dense", "tensorflow_internals"]
