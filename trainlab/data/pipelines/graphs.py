"""The graph of a pipeline, and a pipeline of a graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from trainlab.parameters import tensorflow_internals


def graph_of(dataset: tf.data.Dataset) -> Any:
    """A `GraphDef`, with whatever state outside of it the pipeline depends on.

    Raises:
        tf.errors.OpError: TensorFlow cannot describe it: it is too large, say.
    """
    variant = tensorflow_internals.dataset_variant(dataset)
    described = tf.raw_ops.DatasetToGraphV2(input_dataset=variant, external_state_policy=1)  # 1: the state is left out
    return tf.compat.v1.GraphDef.FromString(described.numpy())


def dataset_of(graph: Any, element_spec: Any) -> tf.data.Dataset:
    """The pipeline that a graph describes."""
    variant = tf.raw_ops.DatasetFromGraph(graph_def=graph.SerializeToString())
    return tf.data.experimental.from_variant(variant, element_spec)


def constant(nodes: Mapping[str, Any], name: str) -> Any:
    """The value of a scalar input, None if it is no constant."""
    node = nodes.get(name.partition(":")[0])
    return tf.make_ndarray(node.attr["value"].tensor).item() if node is not None and node.op == "Const" else None
