"""Everything of TensorFlow that is not public and is used here: each with the reason, and what would replace it.

It stands in the lowest package, since all others may need it; nothing else of trainlab touches a private name of TensorFlow.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import tensorflow as tf
from tensorflow.compiler.xla.tsl.protobuf.coordination_config_pb2 import CoordinatedJob
from tensorflow.core.protobuf import config_pb2, rewriter_config_pb2
from tensorflow.python.autograph.core import ag_ctx
from tensorflow.python.distribute import multi_worker_util
from tensorflow.python.eager import context, record, tape
from tensorflow.python.eager.polymorphic_function import autograph_util
from tensorflow.python.framework import errors_impl, func_graph, op_callbacks, ops
from tensorflow.python.framework.config import is_op_determinism_enabled as _is_op_determinism_enabled
from tensorflow.python.ops import custom_gradient, resource_variable_ops
from tensorflow.python.ops.parallel_for import control_flow_ops as parallel_for

_Function = type(tf.function(lambda: None))


def may_record() -> bool:
    """Whether any tape may be recording: public would be a function that asks; `tf.GradientTape` knows only of itself."""
    return bool(record.could_possibly_record())


def recording_stopped() -> AbstractContextManager[None]:
    """While open, no tape records: public is `tf.GradientTape.stop_recording`, of one tape."""
    return record.stop_recording()


def variable_accessed(variable: Any) -> None:
    """Tells every tape that watches what it meets, and `tf.custom_gradient`, that a variable was read.

    Reading a `tf.Variable` does so; public would be a tensor that counts as one.
    """
    tape.variable_accessed(variable)


def new_variable(**kwargs: Any) -> tf.Variable:
    """A variable made here and now, whatever scopes of creators are open: `tf.Variable` asks them."""
    return resource_variable_ops.ResourceVariable(**kwargs)


@contextmanager
def custom_gradients_replaced(make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Iterator[None]:
    """While open, `make` of what a `tf.custom_gradient` does when it is called is done in its place.

    It gets the function, its arguments and its keywords. Public would be a way to know the variables that a function reads.
    """
    originals = custom_gradient._eager_mode_decorator, custom_gradient._graph_mode_decorator
    custom_gradient._eager_mode_decorator, custom_gradient._graph_mode_decorator = map(make, originals)
    try:
        yield
    finally:
        custom_gradient._eager_mode_decorator, custom_gradient._graph_mode_decorator = originals


def forget_gradient_of(operation: Any) -> None:
    """Lets go of what a `tf.custom_gradient` has registered for its group, which nobody differentiates any more.

    TensorFlow keeps it as long as the process lives, and with it the graph of the whole step. There is no public way.
    """
    if name := operation.node_def.attr["_gradient_op_type"].s.decode():
        ops.gradient_registry._registry.pop(name, None)


def recomputed_function(function: Any) -> Callable[..., Any] | None:
    """The function that was given to `tf.recompute_grad`, if a `tf.custom_gradient` is of its making; None if not.

    Public would be an attribute of what `tf.recompute_grad` returns.
    """
    if getattr(function, "__qualname__", "") != "recompute_grad.<locals>.inner":
        return None
    names = function.__code__.co_freevars
    return function.__closure__[names.index("f")].cell_contents if "f" in names else None


def is_stateful(operation: Any) -> bool:
    """Whether an operation has a state: public would be `tf.Operation.is_stateful`."""
    return bool(operation._is_stateful)


def run_before(operation: Any, other: Any) -> None:
    """Makes `other`, which is in the graph already, wait for `operation`.

    Public would be `tf.Operation.add_control_input`; `tf.control_dependencies` reaches only operations that are made in it.
    """
    other._add_control_input(operation)


def set_input(operation: Any, tensor: Any, index: int = 0) -> None:
    """Gives an operation, which is in the graph already, another input of the same type and shape in the place of one.

    Nothing public changes a graph. TensorFlow itself does so where it builds loops.
    """
    operation._update_input(index, tensor)


def graph_freed_with(function: Any) -> Any:
    """The same concrete function, whose graph will not outlive it: public would be `close` of one.

    Operations and graphs hold each other where no garbage collector looks. TensorFlow takes them apart when a function ends,
    but leaves that to whoever asked for a concrete one.
    """
    weakref.finalize(function, func_graph.dismantle_func_graph, function.graph).atexit = False
    return function


def function_of(graph: Any, name: str) -> Any:
    """The function of this name that a graph calls, None if it does not know it: public would be `tf.Graph.get_function`."""
    return graph._get_function(name)


def is_op_determinism_enabled() -> bool:
    """Whether TensorFlow's op determinism is on: public is only the way to switch it on."""
    return bool(_is_op_determinism_enabled())


def gpu_memory() -> int:
    """Bytes that TensorFlow may use of the largest GPU; 0 without one.

    `tf.config.experimental.get_memory_info` tells what is used, and nothing public what there is.
    """
    from tensorflow.python.client import device_lib  # it starts the devices, which importing trainlab must not

    gpus = [device for device in device_lib.list_local_devices() if device.device_type == "GPU"]
    return max((device.memory_limit for device in gpus), default=0)


@contextmanager
def sums_left_alone(orders_too: bool = False) -> Iterator[None]:
    """While open, functions that this thread calls keep their sums of tensors as they are; the process' own options stay.

    Of a graph that seems to need more than 200 MB, TensorFlow's memory optimizer lets sums of three tensors or more grow in a
    temporary variable. In a loop one more is made than is destroyed, and the second call dies of AlreadyExistsError.
    `tf.config.optimizer` has no option for it, and would hold for all that runs in the process. A function is optimized at its
    first call, and anew under other options: all its calls must be made in here.

    Args:
        orders_too: whether they keep all control dependencies as well, which costs a small update 3 to 6 percent of its time.
    """
    eager = context.context()
    before = eager.function_call_options
    ours = _with_sums_left_alone(before.executor_type, before.config_proto_serialized, orders_too)
    try:
        eager.function_call_options = ours
        yield
    finally:
        if eager.function_call_options is ours:  # otherwise the process' options were changed meanwhile
            eager.function_call_options = before


@functools.lru_cache(maxsize=8)
def _with_sums_left_alone(executor_type: Any, serialized: bytes, orders_too: bool) -> Any:
    config = config_pb2.ConfigProto.FromString(serialized)
    options = config.graph_options.rewrite_options
    if options.memory_optimization == rewriter_config_pb2.RewriterConfig.DEFAULT_MEM_OPT:
        options.memory_optimization = rewriter_config_pb2.RewriterConfig.SWAPPING_HEURISTICS  # all else that it does
    if orders_too:
        options.dependency_optimization = rewriter_config_pb2.RewriterConfig.OFF
    return context.FunctionCallOptions(executor_type, config)


def flat_caller(function: Any) -> Callable[[Sequence[tf.Tensor]], list[tf.Tensor]]:
    """Calls a concrete function with the flat list of its tensors, and returns the flat list of those that it returns.

    Calling it binds, checks and packs its arguments anew each time, which takes as long as a small update. Public would be a
    way to call it as a saved model's is, without. Where a tape may record, it is called as ever.
    """
    inference, captured = function._inference_function, list(function.captured_inputs)

    def call(tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        if may_record() or not tf.executing_eagerly():
            signature = tf.nest.pack_sequence_as(function.structured_input_signature[0], tensors, expand_composites=True)
            return tf.nest.flatten(function(*signature), expand_composites=True)
        return inference.call_flat(*tensors, *captured) or []

    return call


def iterator_handle(iterator: Any) -> tf.Tensor:
    """The resource of a `tf.data` iterator, for the operations that save and restore it.

    `tf.train.Checkpoint(iterator=...)` writes files, and only whole checkpoints.
    """
    return iterator._iterator_resource


def any_of_dataset(dataset: tf.data.Dataset, is_so: Callable[[Any], bool]) -> bool:
    """Whether it reshuffles, holds a variable or `is_so` of a function's GraphDef, by the Python objects it was made of."""
    nodes = [dataset]
    for node in nodes:
        nodes += node._inputs()
        graphs = [function.function.graph for function in node._functions()]
        holds = any(tensor.dtype == tf.resource for graph in graphs for tensor in graph.external_captures)
        if holds or getattr(node, "_reshuffle_each_iteration", False) or any(is_so(graph.as_graph_def()) for graph in graphs):
            return True
    return False


def dataset_variant(dataset: tf.data.Dataset) -> tf.Tensor:
    """The tensor that stands for a data set: public is `tf.data.experimental.to_variant`, which takes only some of them."""
    return dataset._variant_tensor


@contextmanager
def vectorized_maps_replaced(make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Iterator[None]:
    """While open, `make` of the function in which `tf.vectorized_map` ends is called in its place.

    It writes the operations of its function anew, past any tape that follows them: public would be a way to know that one is
    inside.
    """
    original = parallel_for.pfor
    parallel_for.pfor = make(original)
    try:
        yield
    finally:
        parallel_for.pfor = original


@contextmanager
def function_calls_replaced(make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Iterator[None]:
    """While open, `make` of what calling a `tf.function` does is done in its place; it gets the function as first argument.

    `tf.config.run_functions_eagerly` would do so for all threads, and without AutoGraph.
    """
    original = _Function.__call__
    _Function.__call__ = make(original)
    try:
        yield
    finally:
        _Function.__call__ = original


@contextmanager
def eager_operations_told(tell: Callable[[str, Sequence[tf.Tensor]], None]) -> Iterator[None]:
    """While open, each operation that this thread has executed eagerly is told: its type, or a function's name, and its inputs.

    Public would be a way to know the variables that a function touches that nobody traces; a tape knows of trainable ones.
    """

    def callback(kind: str, inputs: Sequence[tf.Tensor], *args: Any, graph: Any = None, **kwargs: Any) -> None:
        if graph is None:
            tell(kind, inputs)

    op_callbacks.add_op_callback(callback)
    try:
        yield
    finally:
        op_callbacks.remove_op_callback(callback)


def asks_for_xla(function: Any) -> bool:
    """Whether a `tf.function` was made with `jit_compile=True`: public would be an attribute of it."""
    return function._jit_compile is True


def is_call_for_xla(operation: Any) -> bool:
    """Whether an operation of a graph calls a function that XLA compiles: public would be an attribute of that function."""
    return bool(operation.node_def.attr["_XlaMustCompile"].b)


def must_stay(function: Any) -> bool:
    """Whether a `tf.function` must be called as one, and was traced with nothing before.

    `traced_anew` made it; or TensorFlow itself, as its vectorized maps (and jacobians) do for a call: eagerly they cannot run.
    Public would be a way to ask for what a `tf.function` was made.
    """
    own = getattr(function.python_function, "__module__", None) or ""
    return getattr(function, "_is_traced_anew", False) or own.startswith("tensorflow.python.")


def traced_anew(function: Any) -> Any:
    """The same `tf.function`, but without what it was traced with before: `tf.function` does not tell with which options."""
    anew = tf.function(
        function.python_function,
        autograph=function._autograph,
        experimental_autograph_options=function._experimental_autograph_options,
        jit_compile=function._jit_compile,
    )
    anew._is_traced_anew = True
    return anew


def call_python(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Calls the Python function of a `tf.function`, converted by AutoGraph if calling the `tf.function` would do so.

    `tf.autograph.to_graph` does not know with which options the `tf.function` was made.
    """
    if not function._autograph or tf.executing_eagerly():
        return function.python_function(*args, **kwargs)
    converted = autograph_util.py_func_from_autograph(function.python_function, function._experimental_autograph_options)
    with ag_ctx.ControlStatusCtx(status=ag_ctx.Status.UNSPECIFIED):  # a trace round it may have switched AutoGraph off
        return converted(*args, **kwargs)


def abort_collectives(reason: str) -> None:
    """Ends what this process and others wait for together, at once and for good; public is only to wait for a timeout."""
    context.context().abort_collective_ops(errors_impl.UNAVAILABLE, reason)


def has_started() -> bool:
    """Whether TensorFlow has made its devices in this process: no other cluster can be joined then; public is only the error."""
    return context.context()._context_handle is not None


def expect_heartbeats(seconds: float) -> None:
    """Lets the workers of TF_CONFIG, who are about to join, be silent so long; TensorFlow's own 10 s have no public setting."""
    spec = tf.distribute.cluster_resolver.TFConfigClusterResolver().cluster_spec()
    jobs = [CoordinatedJob(name=job, num_tasks=spec.num_tasks(job)) for job in spec.jobs]
    context.context().configure_coordination_service(
        service_type="standalone",
        service_leader=multi_worker_util.coordination_leader(spec),
        heartbeat_timeout_in_ms=int(1000 * seconds),
        coordinated_jobs=jobs,
    )
