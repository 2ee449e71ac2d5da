import collections
import os
import signal
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell starts its background jobs; tests send it
    signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # as under nohup; tests send it too
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

import gin  # noqa: E402
import keras  # noqa: E402
import pytest  # noqa: E402
import tensorflow as tf  # noqa: E402
from tensorflow.python.framework.config import disable_op_determinism, is_op_determinism_enabled  # noqa: E402

from trainlab import train  # noqa: E402

# Equalities to float32 rounding: a GPU would otherwise multiply matrices with ten bits.
tf.config.experimental.enable_tensor_float_32_execution(False)


# Several devices: nothing uses another than the first unless it is told to, and nothing else changes.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 4
)

# Of a test's cases (strategies, models, modes, kinds of data, ...) the quick suite has the first, in files where a case is a
# training or two. The slow suite has all others.
_SAMPLED = """
    equalities distribution/test_ test_scal test_loss_scale test_parity test_nonfinite runs/test_run test_jit test_loop
    test_micro_batches test_ordering test_duplicates test_undeclared test_ragged test_telling test_way_back
    test_searching test_lookups test_requirements test_train_step test_strangers test_heun test_adaptive_step
    test_accumulate test_going_on test_pipelines test_inputs test_array_source test_libraries test_folders
    test_data_tasks test_more_models test_two_players test_early_ends test_evaluating test_reset test_ways_out
    test_validation_goes_on test_without_configs test_loggers test_csv_logger test_boards_cut test_hearing_as
    test_operations_counted test_predicting test_epochs test_find_learning_rate test_trainer_ test_weightless
    test_bench.py test_report_pages test_racing test_assert_resumes cli/test_command.py cli/test_own_data
    cli/test_outline cli/running test_fingerprints test_stopping test_runge_kutta test_compare.py
    test_manifest_of_own_code test_device test_order.py test_kinds_weights test_sweep_verb test_wrapping test_sam
    test_callback_state test_signals test_hooks test_best test_update.py test_model_function test_hard_models
    comparing/test_problem test_half_called test_pace test_passes
""".split()


def pytest_collection_modifyitems(items):
    cases = collections.defaultdict(list)
    for item in items:
        is_product = any(name in item.nodeid for name in _SAMPLED) and hasattr(item, "callspec")
        if is_product and item.get_closest_marker("slow") is None:
            cases[item.nodeid.partition("[")[0]].append(item)
    for product in cases.values():
        for item in product[1:]:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def _fresh_keras():
    """No test sees the names, seeds or layers of another."""
    yield
    keras.utils.clear_session(free_memory=False)
    # The command's default, which TensorFlow has no public way back from; on a GPU who compares bits sets the variable.
    if is_op_determinism_enabled() and "TF_DETERMINISTIC_OPS" not in os.environ:
        disable_op_determinism()


@pytest.fixture
def precision(request):
    """Keras' precision during a test: `@pytest.mark.parametrize("precision", ["float64"], indirect=True)`."""
    name = getattr(request, "param", "float64")
    keras.config.set_floatx("float64" if name == "float64" else "float32")
    keras.config.set_dtype_policy(name)
    yield name
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")


@pytest.fixture
def command(capsys, monkeypatch, tmp_path):
    """The command in this process, in a directory of its own: arguments -> (status, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])

    def run(*arguments):
        status = train.main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    yield run
    gin.clear_config()
