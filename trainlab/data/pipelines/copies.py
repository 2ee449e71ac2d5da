"""Copies of pipelines, which begin anew, or interleave as the run did that began elsewhere."""

from __future__ import annotations

import uuid
import warnings
from typing import Any

import tensorflow as tf

from trainlab.data.iterators import next_of
from trainlab.data.pipelines import graphs
from trainlab.data.pipelines.interleaves import Sizes, set_sizes
from trainlab.data.pipelines.nature import Nature

_RESOURCE_AT = {"ShuffleDatasetV3": 4, "CacheDatasetV2": 2}


def copied(dataset: tf.data.Dataset, sizes: Sizes | None = None) -> tf.data.Dataset:
    """The same pipeline, of which no pass was begun: orders and caches that have moved on in `dataset` itself begin anew.

    Args:
        dataset: one that has no variables.
        sizes: of its interleaves, in place of those that it has.

    Raises:
        ValueError: it has no such interleaves.
    """
    graph = graphs.graph_of(dataset)
    if sizes is not None:
        set_sizes(graph, sizes)
    nodes = {node.name: node for node in graph.node}
    for number, node in enumerate(graph.node):
        if (at := _RESOURCE_AT.get(node.op)) is not None and nodes[node.input[at]].op == "Const":
            # TensorFlow makes one where it finds none of this name.
            [handle] = nodes[node.input[at]].attr["value"].tensor.resource_handle_val
            handle.name = f"trainlab {uuid.uuid4()} {number}"
    return graphs.dataset_of(graph, dataset.element_spec)


def first_of(dataset: tf.data.Dataset, is_copyable: bool) -> Any:
    """Its first element; of a copy, if there can be one, since the shuffles of this one would move on."""
    return next_of(iter(copied(dataset) if is_copyable else dataset))


def interleaved_as(dataset: tf.data.Dataset, nature: Nature, sizes: Sizes | None, name: str) -> tf.data.Dataset | None:
    """The same, if its interleaves have the sizes that a run began with, or nobody knows them; otherwise a copy, and a warning.

    None if there can be no copy.
    """
    if sizes in (None, nature.interleaves):
        return dataset
    try:
        copy = copied(dataset, sizes) if nature.is_copyable else None
    except ValueError:  # it is another pipeline, which shows in its batches
        return None
    if copy is not None:
        warnings.warn(
            f"{name} interleaves by {_in_words(nature.interleaves)}, and did by {_in_words(sizes)} when the run began, which "
            "goes on so. Without a cycle_length, interleave goes by the number of cores: give it one",
            stacklevel=6,
        )
    return copy


def _in_words(sizes: Sizes) -> str:
    return " and ".join(f"cycle_length {length}" for length, *_ in sizes)
