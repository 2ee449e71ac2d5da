"""What is used of Keras that is not public: that it still does what it is used for, and what would replace it."""

import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf
from small import compiled, dense_model, regression, two_outputs

from trainlab.objective import keras_internals


@pytest.fixture
def model():
    model = compiled(dense_model(), metrics=["mae"])
    keras_internals.build(model, (tf.TensorSpec([4, 3]), tf.TensorSpec([4, 1])))
    return model


def has(owner, *names):
    """Which of these an object has."""
    return [name for name in names if hasattr(owner, name)]


# The public name that would replace a function of ours, and where it would be; none of them is there yet.
REPLACEMENTS = {
    "layers_of": (keras.Model, ["flatten_layers", "all_layers"]),
    "compile_arguments": (keras.Model, ["compile_arguments", "compile_config"]),
    "masked_moments_synchronized": (keras.layers.BatchNormalization, ["moments", "masked_moments", "synchronized_moments"]),
    "metric_function": (keras.metrics.MeanMetricWrapper, ["fn", "function", "metric_fn"]),
    "default_jit_compile": (keras.Model, ["resolve_auto_jit_compile"]),
    "batches_before_record": (keras.callbacks.TensorBoard, ["global_train_batch", "batches_before_record", "start_batch"]),
    "flush_board": (keras.callbacks.TensorBoard, ["flush", "writers"]),
    "batches_before_save": (keras.callbacks.ModelCheckpoint, ["batches_seen_since_last_saving", "should_save_on_batch"]),
    "hears_in_threads": (keras.callbacks.CallbackList, ["async_train", "is_async"]),
    "count_batches": (keras.callbacks.Callback, ["on_train_batches_end", "on_train_batches", "count_batches"]),
    "count_test_batches": (keras.callbacks.Callback, ["on_test_batches_end", "on_test_batches", "count_test_batches"]),
    "held_learning_rate": (keras.Optimizer, ["given_learning_rate", "learning_rate_or_schedule", "learning_rate_schedule"]),
    "excluded_from_decay": (keras.Optimizer, ["excluded_from_weight_decay", "weight_decay_exclusions"]),
    "take_initial_epoch": (keras.Model, ["take_initial_epoch"]),
    "dtype_by_default": (keras.config, ["dtype_scope", "dtype_policy_scope", "floatx_scope", "reset_dtype_policy"]),
    "build": (keras.Model, ["symbolic_build"]),
    "loss_tracker": (keras.Model, ["loss_tracker"]),
    "in_order_of_metrics": (keras.Model, ["flatten_metrics_in_order", "metrics_in_order"]),
    "compile_loss": (keras.Model, ["compile_loss", "loss_container"]),
    "compile_metrics": (keras.Model, ["compile_metrics", "metrics_container"]),
    "flat_losses": (keras.Model, ["losses_by_output"]),
    "losses_replaced": (keras.Model, ["set_losses"]),
    "loss_arguments": (keras.Loss, ["arguments", "fn_kwargs"]),
    "mask_of": (keras.ops, ["get_mask", "get_keras_mask"]),
    "autocast": (keras.Variable, ["maybe_autocast", "autocast_value"]),
    "current_scope": (keras.StatelessScope, ["current", "get_current"]),
    "handles_replaced": (keras.StatelessScope, ["handle", "get_handle"]),
    "applying_replaced": (keras.Model, ["optimizers"]),
    "inner_optimizers": (keras.optimizers.MultiOptimizer, ["optimizer_of", "get_optimizer"]),
    "take_replaced": (keras.StatelessScope, ["take", "get_rows"]),
    "fused_rnns_replaced": (keras.ops, ["lstm", "gru"]),
    "metric_directions": (keras.Metric, ["direction"]),
    "trained_by": (keras.Optimizer, ["trainable_variables", "trained_variables"]),
    "is_bookkeeping": (keras.Layer, ["settings", "get_settings"]),
    "data_adapter": (keras.utils, ["get_data_adapter", "data_adapter"]),
}


@pytest.mark.parametrize("name", REPLACEMENTS)
def test_nothing_public_replaces_it_yet(name):
    owner, names = REPLACEMENTS[name]
    assert has(owner, *names) == [], f"use this in place of keras_internals.{name}"


def test_every_function_is_in_the_table_and_gives_its_reason():
    functions = {name: fn for name, fn in vars(keras_internals).items() if inspect.isfunction(fn)}
    own = {name: fn for name, fn in functions.items() if fn.__module__ == keras_internals.__name__}
    assert set(own) == set(REPLACEMENTS)
    assert all(len(inspect.getdoc(fn)) > 60 for fn in own.values())


def test_layers(model):
    inner = keras.Sequential([keras.Input([3]), keras.layers.Dense(2)])
    outer = keras.Sequential([keras.Input([3]), inner, keras.layers.Dropout(0.1)])
    found = keras_internals.layers_of(outer, include_self=False)
    assert {*inner.layers, *outer.layers} <= set(found) and outer not in found
    assert outer in keras_internals.layers_of(outer)
    assert not {*inner.layers} <= set(outer.layers)  # which is why it is needed


def test_what_a_model_was_compiled_with(model):
    arguments = keras_internals.compile_arguments(model)
    assert arguments["loss"] == "mse" and arguments["metrics"] == ["mae"] and "loss_weights" in arguments
    assert keras_internals.default_jit_compile(model) is bool(tf.config.list_physical_devices("GPU"))
    assert [v.path for v in keras_internals.trained_by(model.optimizer)] == [v.path for v in model.trainable_variables]
    assert keras_internals.trained_by(keras.optimizers.SGD()) in ([], None)


def test_what_a_loss_hands_to_its_function():
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=7)
    assert keras_internals.loss_arguments(loss)["from_logits"] is True
    assert keras_internals.loss_arguments(loss).get("ignore_class", loss.get_config()["ignore_class"]) == 7
    assert keras_internals.loss_arguments(lambda y_true, y_pred: 0.0) == {}


def test_where_backup_and_restore_says_where_to_go_on(tmp_path):
    x, y = regression()
    for epochs, want in ((1, None), (3, 1)):  # the first run leaves a backup, since it is killed

        class Look(keras.callbacks.Callback):
            def on_epoch_begin(self, epoch, logs=None):
                self.found = keras_internals.take_initial_epoch(self.model)
                if epoch == 1:
                    raise KeyboardInterrupt

        model, look = compiled(), Look()
        assert keras_internals.take_initial_epoch(model) in (None, 0)
        backup = keras.callbacks.BackupAndRestore(str(tmp_path))
        with pytest.raises(KeyboardInterrupt):
            model.fit(x, y, epochs=epochs + 1, verbose=0, callbacks=[backup, look])
        assert (look.found or None) == want


def test_who_hears_in_threads():
    own = keras.callbacks.Callback()
    own.on_train_batch_end = lambda batch, logs: None
    listener = keras.callbacks.CallbackList([own])
    assert not keras_internals.hears_in_threads(listener)
    listener._async_train = True  # as it is by backends that are safe there, and callbacks that say so
    assert keras_internals.hears_in_threads(listener)


def test_what_callbacks_count():
    board = keras.callbacks.TensorBoard("logs", write_graph=False, update_freq=4, profile_batch=(2, 3))
    checkpoint = keras.callbacks.ModelCheckpoint("model.keras", save_freq=5)
    assert keras_internals.batches_before_record(board) == 1 and keras_internals.batches_before_save(checkpoint) == 4
    keras_internals.count_batches(board, 1, 0)
    assert keras_internals.batches_before_record(board) == 0  # batch 2, to be profiled
    keras_internals.count_batches(board, 3, 3)
    assert keras_internals.batches_before_record(board) == 3  # batch 8, to be recorded
    keras_internals.count_batches(checkpoint, 3, 2)
    keras_internals.count_batches(checkpoint, 0, 0)
    assert keras_internals.batches_before_save(checkpoint) == 1
    keras_internals.count_test_batches(board, 3)
    keras_internals.count_test_batches(checkpoint, 3)
    before = {name: getattr(board, name) for name in keras_internals.CALLBACK_STATE[keras.callbacks.TensorBoard]}
    assert list(before.values()) == [4, 3]
    for kind, names in keras_internals.CALLED_EVERY_BATCH.items():
        assert set(names) <= set(vars(kind)), kind


def test_a_built_model_has_losses_trackers_and_an_optimizer(model):
    assert keras_internals.loss_tracker(model).name == "loss" and keras_internals.loss_tracker(model) in model.metrics
    assert [entry.loss.name for entry in keras_internals.flat_losses(model)] == ["mse"]
    assert keras_internals.compile_loss(model).built and keras_internals.compile_metrics(model).built
    assert model.optimizer.built
    assert keras_internals.flat_losses(compiled()) == []  # not built yet


def test_losses_are_replaced_and_come_back():
    model = two_outputs(as_dict=False)
    x = np.ones([4, 3], "float32")
    y = [np.zeros([4, 1], "float32"), np.zeros([4, 4], "float32")]
    model.compile(loss=["mse", "mae"])
    model.fit(x, y, verbose=0)
    before = model.compute_loss(x, y, model(x))
    called, tracked = [], []

    def wrap(number, loss):
        def wrapped(*args):
            called.append(number)
            return 2 * loss(*args)

        return wrapped

    with keras_internals.losses_replaced(model, wrap, lambda tracker: tracked.append(tracker) or tracker):
        np.testing.assert_allclose(model.compute_loss(x, y, model(x)), 2 * before, rtol=1e-6)
    assert called == [0, 1] and len(tracked) == 2
    np.testing.assert_array_equal(model.compute_loss(x, y, model(x)), before)


def test_masks_and_dtypes():
    x = keras.layers.Masking()(tf.constant([[[0.0], [1.0]]]))
    np.testing.assert_array_equal(keras_internals.mask_of(x), [[False, True]])
    assert keras_internals.mask_of(tf.zeros([])) is None
    layer = keras.layers.Dense(1, dtype="mixed_bfloat16")
    seen = []

    class Looking(keras.layers.Layer):
        def __init__(self):
            super().__init__(dtype="mixed_bfloat16")
            self.weight = self.add_weight(shape=[])

        def call(self, x):
            seen.append(keras_internals.autocast(self.weight, tf.zeros([])).dtype)
            return x

    Looking()(tf.zeros([1, 1]))
    assert seen == [tf.bfloat16] and layer.compute_dtype == "bfloat16"


def test_the_scope_that_is_open():
    assert keras_internals.current_scope() is None
    with keras.StatelessScope() as scope:
        assert keras_internals.current_scope() is scope


def test_an_embedding_ends_in_take():
    layer, found = keras.layers.Embedding(5, 2), []
    layer.build()

    def make(take):
        def taken(x, indices, axis=None):
            found.append((x, axis))
            return take(x, indices, axis=axis)

        return taken

    with keras_internals.take_replaced(make):
        layer(tf.constant([1, 2]))
    layer(tf.constant([3]))
    assert len(found) == 1 and found[0][0] is layer.embeddings and found[0][1] == 0


def test_a_reader_of_any_data():
    adapter = keras_internals.data_adapter(((np.ones([2, 3]), np.ones([2, 1])) for _ in range(3)), None, False)
    assert len(list(adapter.get_tf_dataset())) == 3
    adapter.on_epoch_begin()
    adapter.on_epoch_end()
    assert adapter.num_batches is None


@pytest.mark.parametrize("kind", keras_internals.CALLBACK_STATE, ids=lambda kind: kind.__name__)
def test_what_callbacks_remember_is_kept_where_it_was(kind, tmp_path):
    arguments = {
        "ModelCheckpoint": {"filepath": str(tmp_path / "a.weights.h5"), "save_weights_only": True},
        "TensorBoard": {"log_dir": str(tmp_path)},
    }
    callback = kind(**arguments.get(kind.__name__, {}))
    optimizer = keras.optimizers.SGD(0.1, use_ema=kind is keras.callbacks.SwapEMAWeights)
    x, y = regression()
    compiled(optimizer=optimizer).fit(x, y, verbose=0, callbacks=[callback], validation_data=(x, y))
    assert set(keras_internals.CALLBACK_STATE[kind]) <= set(vars(callback)) | set(dir(kind))
