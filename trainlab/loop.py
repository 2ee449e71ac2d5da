"""The compiled loop: many updates in one call, and every call a transaction.

    while not at a boundary:
        run(updates up to the boundary, or as many as fill about a tenth of a second)

Nothing is read back between boundaries. Whatever goes wrong in a call, the variables go back to what they were before it.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import tensorflow as tf

from trainlab.data import ArraySource, StreamSource, shuffled
from trainlab.model_function import Batch
from trainlab.objective import Batches
from trainlab.update import Update

# A call lasts about this many seconds, so that an interrupt need not wait long and a progress bar moves.
_TARGET_SECONDS = 0.1
_MAX_UPDATES_PER_CALL = 2**14


class Loop:
    """Runs updates on the batches of a source.

    Args:
        update: one update.
        batches: batches an update takes.
        jit_compile: whether XLA compiles the update.
        run_eagerly: whether nothing is compiled at all.
        updates_per_call: how many updates a call makes; None leaves it to the measured time.

    Attributes:
        num_traces: how often an update was traced.
    """

    def __init__(self, update: Update, batches: int, jit_compile: bool, run_eagerly: bool, updates_per_call: int | None):
        self._update = update
        self._batches = batches
        self._jit_compile = jit_compile
        self._run_eagerly = run_eagerly
        self._fixed = updates_per_call
        self._measured = 1
        self._functions: dict[Any, Callable[..., Any]] = {}
        self._read: tuple[list[tf.Variable], Callable[[], list[tf.Tensor]]] = ([], list)
        self._snapshot_at = -1
        self.num_traces = 0

    def run(self, source: ArraySource | StreamSource, max_updates: int) -> int:
        """Runs up to `max_updates` updates and returns how many; fewer than one at the end of a pass.

        The source moves on only if every update of the call was committed.
        """
        limit = min(max_updates, self._fixed or self._measured)
        started = time.monotonic()
        known = len(self._functions)
        done = self._run_arrays(source, limit) if isinstance(source, ArraySource) else self._run_stream(source, limit)
        if done == limit == self._measured and known == len(self._functions):
            seconds = time.monotonic() - started
            if seconds < _TARGET_SECONDS / 2:
                self._measured = min(2 * self._measured, _MAX_UPDATES_PER_CALL)
            elif seconds > 2 * _TARGET_SECONDS:
                self._measured = max(self._measured // 2, 1)
        return done

    @functools.cached_property
    def metric_results(self) -> Callable[[], Mapping[str, Any]]:
        """The results of the model's metrics, in one compiled call."""
        return self._compiled(self._update.function.model.get_metrics_result, jit_compile=False)

    def _run_arrays(self, source: ArraySource, limit: int) -> int:
        left = source.num_examples - source.position
        per_update = source.batch_size * self._batches
        num_updates = min(limit, left // per_update)
        full, rest = self._batches, 0
        if num_updates == 0:  # the pass' last update takes what is left
            num_updates = 1
            full, rest = divmod(left, source.batch_size)
        function = self._array_function(source, full, rest)
        used = num_updates * (full * source.batch_size + rest)
        with self._transaction():
            function(source.tensors, *(tf.constant(n, tf.int64) for n in (source.epoch, source.position, num_updates)))
            source.position += used
        return num_updates

    def _run_stream(self, source: StreamSource, limit: int) -> int:
        for done in range(limit):
            taken = source.take(self._batches)
            if not taken:
                return done
            function = self._stream_function(source, len(taken))
            with self._transaction():
                function([leaf for batch in taken for leaf in _flat(batch)])
        return limit

    def _array_function(self, source: ArraySource, full: int, rest: int) -> Callable[..., Any]:
        """Runs updates of `full` whole batches and one of `rest` examples; one trace for any epoch, position and count."""
        key = (source.batch_size, full, rest, source.shuffle, source.seed, source.device, str(source.batch_specs()))
        if key not in self._functions:
            batch_size, shuffle, seed = source.batch_size, source.shuffle, source.seed
            pack, device = source.pack, source.device

            def gather(tensors: list[tf.Tensor], indices: tf.Tensor) -> Batch:
                with tf.device(device):
                    return pack([tf.gather(tensor, indices) for tensor in tensors])

            def step(tensors: list[tf.Tensor], indices: tf.Tensor) -> None:
                self.num_traces += 1
                parts = []
                if full:
                    rows = tf.reshape(indices[: full * batch_size], [full, batch_size])
                    parts.append(Batches(full, lambda i: gather(tensors, rows[i])))
                if rest:
                    parts.append(Batches(1, lambda i: gather(tensors, indices[full * batch_size :])))
                self._update(parts)

            size = full * batch_size + rest
            indices_spec = tf.TensorSpec([size], tf.int64)
            if self._jit_compile:
                step = self._compiled(step, source.specs, indices_spec)

            def run(tensors: list[tf.Tensor], epoch: tf.Tensor, position: tf.Tensor, num_updates: tf.Tensor) -> Any:
                num_examples = tf.shape(tensors[0], tf.int64)[0]

                def body(i: tf.Tensor) -> list[tf.Tensor]:
                    positions = position + i * size + tf.range(size, dtype=tf.int64)
                    step(tensors, shuffled(seed, epoch, positions, num_examples) if shuffle else positions)
                    return [i + 1]

                return tf.while_loop(lambda i: i < num_updates, body, [tf.zeros([], tf.int64)], parallel_iterations=1)

            scalar = tf.TensorSpec([], tf.int64)
            self._functions[key] = self._compiled(run, source.specs, scalar, scalar, scalar, jit_compile=False)
        return self._functions[key]

    def _stream_function(self, source: StreamSource, num_batches: int) -> Callable[..., Any]:
        """Runs one update of `num_batches` batches, each of any shape that the source's specs admit."""
        specs = _flat(source.element_spec)
        key = (num_batches, str(source.element_spec))
        if key not in self._functions:
            structure = source.element_spec
            # XLA needs every shape, and only plain tensors can be read from an array by index: elsewhere the loop is unrolled.
            is_plain = all(isinstance(spec, tf.TensorSpec) for spec in specs)
            unroll = num_batches == 1 or self._jit_compile or self._run_eagerly or not is_plain

            def step(leaves: list[Any]) -> None:
                self.num_traces += 1
                groups = [leaves[i : i + len(specs)] for i in range(0, len(leaves), len(specs))]
                if unroll:
                    parts = [Batches(1, functools.partial(_pick, structure, group)) for group in groups]
                else:
                    arrays = [_array_of(column) for column in zip(*groups, strict=True)]
                    parts = [Batches(num_batches, lambda i: _pack(structure, _read(arrays, i, specs)))]
                self._update(parts)

            self._functions[key] = self._compiled(step, specs * num_batches)
        return self._functions[key]

    def _compiled(self, fn: Callable[..., Any], *specs: Any, jit_compile: bool | None = None) -> Callable[..., Any]:
        if self._run_eagerly:
            return fn
        jit_compile = self._jit_compile if jit_compile is None else jit_compile
        # One concrete function: a call can neither retrace nor warn about it.
        return tf.function(fn, autograph=False, jit_compile=jit_compile).get_concrete_function(*specs)

    def _snapshot(self) -> tuple[list[tf.Variable], Callable[[], list[tf.Tensor]]]:
        """The variables, and one call that reads them all; the values share their buffers until those are written."""
        if self._snapshot_at != self.num_traces:  # tracing may have discovered more of them
            variables = self._update.variables
            self._read = variables, self._compiled(lambda: [v.read_value() for v in variables], jit_compile=False)
            self._snapshot_at = self.num_traces
        return self._read

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Puts every variable back if the block raises: an error, or an interrupt, in the middle of a call tears nothing."""
        variables, read = self._snapshot()
        values = read()
        try:
            yield
        except BaseException:
            for variable, value in zip(variables, values, strict=True):
                variable.assign(value)
            raise


def _flat(batch: Any) -> list[Any]:
    return [leaf for leaf in tf.nest.flatten(batch) if leaf is not None]


def _pick(structure: Any, leaves: Sequence[Any], index: Any) -> Any:
    del index  # the only one there is
    return _pack(structure, leaves)


def _pack(structure: Any, leaves: Sequence[Any]) -> Any:
    given = iter(leaves)
    return tf.nest.map_structure(lambda leaf: None if leaf is None else next(given), structure)


def _array_of(column: Sequence[tf.Tensor]) -> tf.TensorArray:
    array = tf.TensorArray(column[0].dtype, len(column), infer_shape=False, element_shape=column[0].shape)
    for i, tensor in enumerate(column):
        array = array.write(i, tensor)
    return array


def _read(arrays: Sequence[tf.TensorArray], index: Any, specs: Sequence[tf.TensorSpec]) -> list[tf.Tensor]:
    return [tf.ensure_shape(array.read(index), spec.shape) for array, spec in zip(arrays, specs, strict=True)]
