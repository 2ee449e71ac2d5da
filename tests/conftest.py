import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras  # noqa: E402
import pytest  # noqa: E402
import tensorflow as tf  # noqa: E402

# Equalities to float32 rounding: a GPU would otherwise multiply matrices with ten bits.
tf.config.experimental.enable_tensor_float_32_execution(False)


@pytest.fixture(autouse=True)
def _fresh_keras():
    """No test sees the names, seeds or layers of another."""
    yield
    keras.utils.clear_session(free_memory=False)


@pytest.fixture
def precision(request):
    """Keras' precision during a test: `@pytest.mark.parametrize("precision", ["float64"], indirect=True)`."""
    name = getattr(request, "param", "float64")
    keras.config.set_floatx("float64" if name == "float64" else "float32")
    keras.config.set_dtype_policy(name)
    yield name
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")
