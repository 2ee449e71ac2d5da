"""Values in place of variables, for whoever reads, assigns, watches or differentiates with respect to them."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import keras
import tensorflow as tf

from trainlab.objective import keras_internals
from trainlab.objective.pure.lookups import Lookups
from trainlab.parameters import tensorflow_internals


class StandIn:
    """What TensorFlow sees in place of a variable whose value was swapped: its handle is the value.

    `tf.custom_gradient` and gradient tapes look for the variables that a function reads; without one they would find none, and
    leave its gradient out.

    Attributes:
        variable: the Keras variable.
        handle: the value.
    """

    _should_act_as_resource_variable = True  # how TensorFlow recognizes one
    trainable = True

    def __init__(self, variable: Any, value: tf.Tensor):
        self.variable, self.handle = variable, value
        self.name, self.shape, self.dtype = variable.path, value.shape, value.dtype

    def value(self) -> tf.Tensor:
        """The value, as `tf.Variable.value`; tapes see that it is read."""
        tensorflow_internals.variable_accessed(self)
        return self.handle

    read_value = value

    def ref(self) -> Any:
        """A key for sets and dictionaries, as `tf.Variable.ref`."""
        return _Reference(self)

    def __tf_tensor__(self, dtype: Any = None, name: str | None = None) -> tf.Tensor:
        value = self.value()
        return value if dtype is None or dtype == self.dtype else tf.cast(value, dtype, name)


class _Reference:
    def __init__(self, stand_in: StandIn):
        self._stand_in = stand_in

    def deref(self) -> StandIn:
        return self._stand_in

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Reference) and other._stand_in is self._stand_in

    def __hash__(self) -> int:
        return id(self._stand_in)


class Scope(keras.StatelessScope):
    """Keras' stateless scope; it knows what was read and assigned in it, and reads tables when they are asked for.

    Args:
        pairs: Keras variables and the values to read in their place.
        trained: the variables that gradients are taken with respect to, by id.
        lookups: answers for the variables that tables stand for.

    Attributes:
        updated: the variables that were assigned, by id.
        strangers: the variables that were read as they are, by id, such as the weights of a frozen teacher.
        lookups: the same.
        kept: the variables that stay as they are whatever is assigned to them, by id.
    """

    def __init__(
        self, pairs: list[tuple[Any, tf.Tensor]], trained: Mapping[int, Any] | None = None, lookups: Lookups | None = None
    ):
        super().__init__(state_mapping=pairs, collect_losses=True)
        self.updated: dict[int, Any] = {}
        self.strangers: dict[int, Any] = {}
        self.lookups = Lookups({}) if lookups is None else lookups
        self.kept: Collection[int] = ()
        self._trained = dict(trained or {})
        self._stand_ins: dict[int, StandIn] = {}
        self._readers: list[dict[int, StandIn]] = []

    def add_update(self, update: tuple[Any, Any]) -> None:
        """See `keras.StatelessScope`."""
        if id(update[0]) in self.kept:
            return
        super().add_update(update)
        self.updated[id(update[0])] = update[0]

    def get_current_value(self, variable: Any) -> Any:
        """See `keras.StatelessScope`; whoever looks for the variables that are read sees that this one is."""
        value = super().get_current_value(variable)
        if value is None:
            reading = self.lookups.of(variable)
            value = None if reading is None else reading.whole()
        if value is None:
            self.strangers[id(variable)] = variable
        if id(variable) in self._trained and value is not None:
            stand_in = self._stand_in(variable, value)
            for read in self._readers:
                read[id(variable)] = stand_in
            tensorflow_internals.variable_accessed(stand_in)
        return value

    @contextlib.contextmanager
    def reading(self) -> Iterator[dict[int, StandIn]]:
        """Yields a dictionary of the trained variables that are read while open, by id, as it grows."""
        read: dict[int, StandIn] = {}
        self._readers.append(read)
        try:
            yield read
        finally:
            self._readers.pop()  # they are nested

    def values(self) -> dict[int, Any]:
        """The values as they are now, by their variables' ids."""
        return dict(self.state_mapping)

    def again(self, values: Mapping[int, Any], swapped: Collection[tuple[Any, tf.Tensor]] = ()) -> Scope:
        """A scope of the same variables for the same code once more, from these values; what is assigned in it is lost.

        Args:
            values: by id, as `values` gave them.
            swapped: stand-ins' variables, and the values to read in place of theirs.
        """
        scope = Scope(list(swapped), self._trained, self.lookups)
        scope.state_mapping = {**values, **scope.state_mapping}
        return scope

    def take_back(self, values: Mapping[int, Any], updated: Mapping[int, Any]) -> None:
        """Forgets what was assigned since `values` and `updated` were these."""
        self.state_mapping, self.updated = dict(values), dict(updated)

    def _stand_in(self, variable: Any, value: tf.Tensor) -> StandIn:
        found = self._stand_ins.get(id(variable))
        if found is None or found.handle is not value:
            found = self._stand_ins[id(variable)] = StandIn(variable, value)
        return found


def current_scope() -> Scope | None:
    """The scope that is open in this thread, None if none of ours is the innermost."""
    scope = keras_internals.current_scope()
    return scope if isinstance(scope, Scope) else None


def is_reachable(value: Any) -> bool:
    """Whether the graph being built can use a tensor: it was made there, or in a graph round it."""
    if tf.executing_eagerly() or not hasattr(value, "graph"):
        return not (tf.executing_eagerly() and hasattr(value, "graph"))
    graph = tf.compat.v1.get_default_graph()
    while graph is not None:
        if value.graph is graph:
            return True
        graph = getattr(graph, "outer_graph", None)
    return False
