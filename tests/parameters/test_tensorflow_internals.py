"""What is used of TensorFlow that is not public: that it still does what it is used for, and what would replace it."""

import inspect
import threading

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import config_pb2
from tensorflow.core.protobuf.rewriter_config_pb2 import RewriterConfig
from tensorflow.python.eager import context

from trainlab.parameters import tensorflow_internals

# The public name that would replace a function of ours, and where it would be; none of them is there yet.
REPLACEMENTS = {
    "set_input": (tf.Operation, ["update_input", "set_input"]),
    "abort_collectives": (tf.distribute, ["abort_collectives", "abort_collective_ops"]),
    "expect_heartbeats": (tf.distribute, ["heartbeat_timeout", "expect_heartbeats"]),
    "has_started": (tf.config, ["is_initialized", "has_started", "is_started"]),
    "eager_operations_told": (tf, ["add_op_callback", "op_callbacks"]),
    "may_record": (tf, ["is_recording", "may_record_gradients"]),
    "is_stateful": (tf.Operation, ["is_stateful"]),
    "run_before": (tf.Operation, ["add_control_input"]),
    "graph_freed_with": (type(tf.function(lambda: 0).get_concrete_function()), ["close", "release"]),
    "function_of": (tf.Graph, ["get_function"]),
    "is_op_determinism_enabled": (tf.config.experimental, ["is_op_determinism_enabled"]),
    "gpu_memory": (tf.config.experimental, ["get_memory_limit"]),
    "sums_left_alone": (tf.config.optimizer, ["function_options", "memory_optimization"]),
    "flat_caller": (type(tf.function(lambda: None).get_concrete_function()), ["call_flat", "call_preflattened"]),
    "iterator_handle": (tf.data.Iterator, ["resource", "handle"]),
    "dataset_variant": (tf.data.Dataset, ["variant", "variant_tensor"]),
    "any_of_dataset": (tf.data.Dataset, ["functions", "inputs", "is_stateful"]),
    "vectorized_maps_replaced": (tf, ["is_vectorizing"]),
    "function_calls_replaced": (tf.config, ["run_functions_inline"]),
    "new_variable": (tf, ["new_variable"]),
    "recording_stopped": (tf, ["stop_recording", "no_recording"]),
    "variable_accessed": (tf, ["variable_accessed", "watch_accessed"]),
    "custom_gradients_replaced": (tf, ["variables_read_by"]),
    "forget_gradient_of": (tf, ["UnregisterGradient", "unregister_gradient"]),
    "recomputed_function": (tf.recompute_grad, ["python_function"]),
    "asks_for_xla": (type(tf.function(lambda: None)), ["jit_compile"]),
    "is_call_for_xla": (tf.Operation, ["jit_compile", "is_jit_compiled"]),
    "must_stay": (type(tf.function(lambda: None)), ["clone", "copy"]),
    "traced_anew": (type(tf.function(lambda: None)), ["clone", "copy"]),
    "call_python": (tf.autograph, ["convert_as"]),
}


@pytest.mark.parametrize("name", REPLACEMENTS)
def test_nothing_public_replaces_it_yet(name):
    owner, names = REPLACEMENTS[name]
    assert [name for name in names if hasattr(owner, name)] == [], f"use this in place of tensorflow_internals.{name}"


def test_every_function_is_in_the_table_and_gives_its_reason():
    functions = {name: fn for name, fn in vars(tensorflow_internals).items() if inspect.isfunction(fn)}
    own = {name: fn for name, fn in functions.items() if fn.__module__ == tensorflow_internals.__name__}
    assert set(own) == set(REPLACEMENTS)
    assert all(len(inspect.getdoc(fn)) > 60 for fn in own.values())


def test_what_runs_eagerly_is_told_while_it_is_listened_to():
    told, variable = [], tf.Variable(1.0)
    tf.zeros([2]) + 1
    with tensorflow_internals.eager_operations_told(lambda kind, inputs: told.append((kind, len(inputs)))):
        variable.assign(2.0)
        tf.function(lambda: variable * 2)()
    tf.zeros([2]) + 1
    kinds = [kind for kind, _ in told]
    assert ("AssignVariableOp", 2) in told and kinds[-1].startswith("__inference") and "AddV2" not in kinds and "Mul" not in kinds


def test_whether_a_tape_may_record():
    assert not tensorflow_internals.may_record()
    with tf.GradientTape():
        assert tensorflow_internals.may_record()


def test_operations_of_a_graph():
    with tf.Graph().as_default() as graph:
        a, b = tf.constant(1.0), tf.constant(2.0)
        noise = tf.random.uniform([])
        assert tensorflow_internals.is_stateful(noise.op) and not tensorflow_internals.is_stateful(a.op)
        tensorflow_internals.run_before(a.op, b.op)
        assert a.op in b.op.control_inputs and b.op not in a.op.control_inputs
        inner = tf.function(lambda: tf.constant(3.0)).get_concrete_function()
        call = inner()
        name = call.op.get_attr("f").name
        assert tensorflow_internals.function_of(graph, name) is not None
        assert tensorflow_internals.function_of(graph, "no such function") is None


def test_determinism_and_memory():
    assert not tensorflow_internals.is_op_determinism_enabled()
    tf.config.experimental.enable_op_determinism()
    assert tensorflow_internals.is_op_determinism_enabled()
    assert (tensorflow_internals.gpu_memory() > 0) is bool(tf.config.list_physical_devices("GPU"))


def test_handles_of_data():
    data = tf.data.Dataset.range(3)
    iterator = iter(data)
    next(iterator)
    saved = tf.raw_ops.SerializeIterator(resource_handle=tensorflow_internals.iterator_handle(iterator))
    other = iter(data)
    tf.raw_ops.DeserializeIterator(resource_handle=tensorflow_internals.iterator_handle(other), serialized=saved)
    assert int(next(other)) == 1
    variant = tensorflow_internals.dataset_variant(data)
    assert int(tf.raw_ops.DatasetCardinality(input_dataset=variant)) == 3


def test_vectorized_maps_end_there():
    calls = []

    def make(pfor):
        def counted(*args, **kwargs):
            calls.append(args)
            return pfor(*args, **kwargs)

        return counted

    with tensorflow_internals.vectorized_maps_replaced(make):
        doubled = tf.vectorized_map(lambda x: 2 * x, tf.constant([1.0, 2.0]))
    tf.vectorized_map(lambda x: x, tf.constant([1.0]))
    np.testing.assert_array_equal(doubled, [2.0, 4.0])
    assert len(calls) == 1


@tf.function
def with_an_if(x):
    if x > 0:
        return x
    return -x


def test_calls_of_functions_end_there_and_are_converted_as_ever():
    calls = []

    def make(original):
        def call(function, *args, **kwargs):
            calls.append(function)
            return tensorflow_internals.call_python(function, args, kwargs)

        return call

    @tf.function(autograph=False)
    def outer(x):
        with tensorflow_internals.function_calls_replaced(make):
            return with_an_if(x)

    concrete = outer.get_concrete_function(tf.TensorSpec([]))
    assert calls == [with_an_if]
    assert not any("PartitionedCall" in op.type and "with_an_if" in str(op.node_def) for op in concrete.graph.get_operations())
    assert float(concrete(tf.constant(-3.0))) == 3.0
    assert float(with_an_if(tf.constant(-2.0))) == 2.0 and len(calls) == 1


class TestSumsLeftAlone:
    def options(self):
        return config_pb2.ConfigProto.FromString(context.context().function_call_options.config_proto_serialized)

    def test_for_this_thread_while_it_is_open_and_nothing_else(self):
        before, others = self.options(), []
        assert before.graph_options.rewrite_options.memory_optimization == RewriterConfig.DEFAULT_MEM_OPT
        with tensorflow_internals.sums_left_alone():
            within = self.options()
            thread = threading.Thread(target=lambda: others.append(self.options()))
            thread.start()
            thread.join()
        assert within.graph_options.rewrite_options.memory_optimization == RewriterConfig.SWAPPING_HEURISTICS
        assert within != before == self.options() == others[0]
        before.graph_options.rewrite_options.memory_optimization = RewriterConfig.SWAPPING_HEURISTICS
        assert within == before

    def test_orders_too(self):
        before = self.options()
        with tensorflow_internals.sums_left_alone(orders_too=True):
            within = self.options().graph_options.rewrite_options
        assert within.dependency_optimization == RewriterConfig.OFF
        assert within.memory_optimization == RewriterConfig.SWAPPING_HEURISTICS
        assert self.options() == before

    def test_the_users_own_options_stay(self):
        before = tf.config.optimizer.get_experimental_options()
        try:
            tf.config.optimizer.set_experimental_options({"constant_folding": False})
            with tensorflow_internals.sums_left_alone():
                options = self.options().graph_options.rewrite_options
                assert options.constant_folding == RewriterConfig.OFF
                assert options.memory_optimization == RewriterConfig.SWAPPING_HEURISTICS
                tf.config.optimizer.set_experimental_options({"constant_folding": True})  # as a callback might
            assert self.options().graph_options.rewrite_options.constant_folding == RewriterConfig.ON
        finally:
            tf.config.optimizer.set_experimental_options({"constant_folding": before.get("constant_folding", True)})

    def test_after_an_error_and_one_in_the_other(self):
        before = context.context().function_call_options
        with pytest.raises(ZeroDivisionError), tensorflow_internals.sums_left_alone():
            with tensorflow_internals.sums_left_alone():
                pass
            raise ZeroDivisionError
        assert context.context().function_call_options is before


def test_workers_may_be_silent_as_long_as_is_said(monkeypatch):
    """By what TensorFlow's strategy of several workers finds configured, and then leaves alone."""
    asked = context.Context()  # that runs nothing
    monkeypatch.setenv("TF_CONFIG", '{"cluster": {"worker": ["a:1", "b:2"]}, "task": {"type": "worker", "index": 1}}')
    monkeypatch.setattr(context, "context", lambda: asked)
    tensorflow_internals.expect_heartbeats(60.5)
    config = asked.coordination_service
    assert (config.heartbeat_timeout_in_ms, config.service_leader) == (60500, "/job:worker/replica:0/task:0")
    assert [(job.name, job.num_tasks) for job in config.coordinated_job_list] == [("worker", 2)]
