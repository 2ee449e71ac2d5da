"""Kinds of data: frames, ragged and sparse arrays, how weights are matched with targets, loaders that say where they stand."""

from trainlab.data.kinds import differences
from trainlab.data.kinds.loaders import Loader, is_loader
from trainlab.data.kinds.rows import Composite, as_sparse, first_place, is_sparse_matrix, rows_of, spec_of
from trainlab.data.kinds.states import as_json, from_json
from trainlab.data.kinds.tables import from_objects, from_table, is_table
from trainlab.data.kinds.weights import by_label, class_weights, matched, weighing

__all__ = [
    "Composite",
    "Loader",
    "as_json",
    "as_sparse",
    "by_label",
    "class_weights",
    "differences",
    "first_place",
    "from_json",
    "from_objects",
    "from_table",
    "is_loader",
    "is_sparse_matrix",
    "is_table",
    "matched",
    "rows_of",
    "spec_of",
    "weighing",
]
