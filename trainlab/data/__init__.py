"""Data: from what users hand over to the batches of each update, checked on the way."""

from trainlab.data import device
from trainlab.data.array_source import ArraySource, Whereabouts, describe_update, size_of_batches
from trainlab.data.arrays import as_arrays, is_stream, note_pass, passes_of
from trainlab.data.blocks import Block, Layout, TrailingLayout, may_unroll
from trainlab.data.checks import check_count, check_labels, find_non_finite
from trainlab.data.inputs import (
    Given,
    Inputs,
    Source,
    Validation,
    build_for,
    check_held_out,
    checked,
    frequency_of,
    prepared,
    set_apart,
    split,
    to_evaluate_on,
)
from trainlab.data.pipelines import copied, moves_on, nature_of
from trainlab.data.stream import StopRequested, finishes, is_anything_left_behind, stoppable, waited_for
from trainlab.data.stream_blocks import checksum_of
from trainlab.data.stream_source import StreamSource

__all__ = [
    "ArraySource",
    "Block",
    "Given",
    "Inputs",
    "Layout",
    "Source",
    "StopRequested",
    "StreamSource",
    "TrailingLayout",
    "Validation",
    "Whereabouts",
    "as_arrays",
    "build_for",
    "check_count",
    "check_held_out",
    "check_labels",
    "checked",
    "checksum_of",
    "copied",
    "describe_update",
    "device",
    "find_non_finite",
    "finishes",
    "frequency_of",
    "is_anything_left_behind",
    "is_stream",
    "may_unroll",
    "moves_on",
    "nature_of",
    "note_pass",
    "passes_of",
    "prepared",
    "set_apart",
    "size_of_batches",
    "split",
    "stoppable",
    "to_evaluate_on",
    "waited_for",
]
