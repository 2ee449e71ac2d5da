"""Which errors are of what processes do together, and which of the program that each runs."""

import pytest
import tensorflow as tf

from trainlab.distribution.workers.errors import is_collective

_DEVICE = "{{function_node __wrapped__%s_device_/job:worker/replica:0/task:0/device:CPU:0}} "
# As TensorFlow 2.21 writes them.
_OF_COLLECTIVES = [
    tf.errors.UnavailableError(
        None, None, "Connection reset by peer\nAdditional GRPC error from remote target /job:worker/task:1"
    ),
    tf.errors.InternalError(None, None, _DEVICE % "CollectiveReduceV2" + "Recv failed"),
    tf.errors.UnavailableError(None, None, "Socket closed\n\t [[{{node CollectiveReduceV2}}]] [Op:__inference_update_7]"),
    tf.errors.AbortedError(None, None, "Collective ops is aborted by: worker 1 was lost"),
    tf.errors.DeadlineExceededError(None, None, "Timed out; the coordination service has no heartbeat of it"),
]


@pytest.mark.parametrize("error", _OF_COLLECTIVES, ids=lambda error: error.message[:20])
def test_errors_of_collectives(error):
    assert is_collective(error)


def _of_python(error):
    def function(x):
        raise error

    with tf.device("/job:localhost/replica:0/task:0/device:CPU:0"), pytest.raises(tf.errors.OpError) as caught:
        list(tf.data.Dataset.range(3).map(lambda x: tf.numpy_function(function, [x], tf.int64)))
    return caught.value


@pytest.mark.parametrize(
    "error", [KeyError("worker"), RuntimeError("my task: failed"), OSError("no coordination")], ids=lambda error: str(error)
)
def test_errors_of_users_functions_are_not(error):
    raised = _of_python(error)
    assert isinstance(raised, tf.errors.UnknownError)  # one of the kinds that collectives end in
    assert not is_collective(raised)


def test_a_device_alone_tells_nothing():
    assert not is_collective(tf.errors.InternalError(None, None, _DEVICE % "MatMul" + "Blas GEMM launch failed"))
    assert not is_collective(ValueError("Collective"))
