"""Kinds of arrays: frames and series, ragged and sparse ones, and how weights are matched with targets."""

from trainlab.data.kinds.rows import Composite, as_sparse, first_place, is_sparse_matrix, rows_of, spec_of
from trainlab.data.kinds.tables import from_objects, from_table, is_table
from trainlab.data.kinds.weights import class_weights, matched, weighing

__all__ = [
    "Composite",
    "as_sparse",
    "class_weights",
    "first_place",
    "from_objects",
    "from_table",
    "is_sparse_matrix",
    "is_table",
    "matched",
    "rows_of",
    "spec_of",
    "weighing",
]
