import functools
import os

import numpy as np
import pytest
import tensorflow as tf
from small import assert_same, compiled, differ, everything, on_a_cpu

from trainlab import Accumulate, Trainer
from trainlab.data import device
from trainlab.data.array_source import ArraySource

TYPES = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float16", "float32", "float64", "bool"]
SHAPES = [(), (1,), (3,), (4,), (5, 2), (2, 3, 4), (0,)]


@pytest.fixture
def gpu(monkeypatch):
    """As if there were one: what is put on it then, TensorFlow puts where it can."""
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: ["one"])


def any_bits(n, shape, dtype):
    """Arrays with whatever bits: for floats NaN, of many kinds, and subnormal numbers among them."""
    size = n * int(np.prod(shape, dtype=int)) * np.dtype(dtype).itemsize
    values = np.random.default_rng(0).integers(0, 2 if dtype == "bool" else 256, size, np.uint8)
    return values.view(dtype).reshape(n, *shape)


def signalling(n, shape, dtype):
    """Bits that are a signalling NaN where they are taken for floats: arithmetic would change them."""
    words = np.full(n * int(np.prod(shape, dtype=int)) * np.dtype(dtype).itemsize // 4 + 8, 0x7F800001, np.uint32)
    return words.view(dtype)[: n * int(np.prod(shape, dtype=int))].reshape(n, *shape)


def _gathered(spec, there, rows):
    found = device.restored(tf.gather(there, rows), spec)
    assert found.shape == [4, *spec.shape[1:]] and found.dtype == spec.dtype
    return found


@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("dtype", TYPES)
def test_rows_come_back_bit_by_bit(dtype, jit_compile, gpu):
    rows = tf.constant([6, 0, 3, 3], tf.int64)
    for shape in SHAPES:
        for make in (any_bits, signalling):
            if make is signalling and dtype == "bool":
                continue
            array = make(7, shape, dtype)
            spec = tf.TensorSpec([None, *shape], dtype)

            gathered = tf.function(functools.partial(_gathered, spec), jit_compile=jit_compile, autograph=False)
            got = gathered(device.put(array), rows).numpy()
            assert got.tobytes() == array[[6, 0, 3, 3]].tobytes()


@pytest.mark.parametrize("dtype", TYPES)
def test_a_gpu_is_given_only_what_it_keeps_and_gathers(dtype, gpu):
    there = device.put(np.zeros([3, 5], dtype))
    assert there.dtype in (tf.float16, tf.float32, tf.float64, tf.int64, tf.bool)
    assert there.shape[0] == 3
    size = there.shape[1] * there.dtype.size
    assert size - 5 * np.dtype(dtype).itemsize in ([0, 1, 2, 3] if np.dtype(dtype).itemsize < 4 else [0])


@pytest.mark.parametrize("dtype", TYPES)
def test_without_a_gpu_arrays_are_as_they_are(dtype, monkeypatch):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: [])
    array = np.ones([3, 5], dtype)
    there = device.put(array)
    assert there.dtype == dtype and device.restored(there, tf.TensorSpec([None, 5], dtype)) is there
    np.testing.assert_array_equal(there, array)


def test_tensors_slices_and_strings(gpu):
    array = np.arange(24, dtype=np.uint8).reshape(4, 6)
    for leaf in (tf.constant(array), array[:, ::2], array[::-1], array.T):
        there = device.put(leaf)
        assert there.dtype == tf.float32
        np.testing.assert_array_equal(device.restored(there, tf.TensorSpec([None, *leaf.shape[1:]], tf.uint8)), leaf)
    words = np.array(["a", "bc"])
    assert list(device.restored(device.put(words), tf.TensorSpec([None], tf.string)).numpy()) == [b"a", b"bc"]


@pytest.mark.parametrize("size", [1, 20, 64])  # bytes; some rows are larger
@pytest.mark.parametrize("dtype", TYPES)
def test_pieces_make_the_whole(dtype, size, gpu, monkeypatch):
    for with_gpu in (True, False):
        monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None, found=with_gpu: ["one"] * found)
        for shape in SHAPES:
            array = any_bits(7, shape, dtype)
            wholes = [device.put(array)]
            with monkeypatch.context() as patched:
                patched.setattr(device, "_PIECE", size)
                wholes += [device.put(array), device.put(array[::-1]), device.put(np.asfortranarray(array))]
            assert {(tuple(whole.shape), whole.dtype) for whole in wholes} == {(tuple(wholes[0].shape), wholes[0].dtype)}
            as_bytes = [whole.numpy().tobytes() for whole in wholes]
            assert as_bytes == [wholes[0].numpy().tobytes(), as_bytes[0], device.put(array[::-1]).numpy().tobytes(), as_bytes[0]]


def test_pieces_of_what_is_no_plain_array(tmp_path, monkeypatch):
    array = any_bits(9, (3,), "float32")
    np.save(tmp_path / "x.npy", array)
    monkeypatch.setattr(device, "_PIECE", 24)
    for given in (np.load(tmp_path / "x.npy", mmap_mode="r"), tf.constant(array), tf.constant(array, tf.float32)[:]):
        there = device.put(given)
        assert there.numpy().tobytes() == array.tobytes()
    assert device.put(there) is there
    words = np.array(["a", "bc"] * 9)
    assert list(device.put(words).numpy()) == [b"a", b"bc"] * 9
    bfloat16 = tf.constant([[1.0], [2.0], [-3.0], [4.0]] * 9, tf.bfloat16)
    assert device.put(bfloat16.numpy()).numpy().tobytes() == bfloat16.numpy().tobytes()


def test_the_array_that_was_given_is_neither_kept_nor_touched(monkeypatch):
    monkeypatch.setattr(device, "_PIECE", 8)
    array = np.arange(8.0)
    there, again = device.put(array), device.put(array)
    array[:] = 0
    np.testing.assert_array_equal(there, np.arange(8.0))
    np.testing.assert_array_equal(again, np.arange(8.0))
    np.testing.assert_array_equal(tf.zeros([8], tf.float64), np.zeros(8))  # nobody else's tensor was written into


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["uint8", "int32", "int16"])
def test_training_is_the_same(dtype, monkeypatch):
    x = np.random.default_rng(0).integers(0, 100, (22, 3)).astype(dtype)
    y = x.sum(1, keepdims=True).astype("uint8")
    found = []
    for carriers in ({}, device._CARRIERS):
        monkeypatch.setattr(device, "_carrier", lambda dtype, shape, carriers=carriers: carriers.get(dtype))
        kept = ArraySource((x, y, None), 4, True, 0).layout(1).array_specs
        assert [spec.dtype for spec in kept] == ([tf.float32, tf.float32] if carriers else [dtype, tf.uint8])
        model = compiled()
        model.optimizer.learning_rate = 1e-5
        before = everything(model)
        Trainer(model, Accumulate(2), jit_compile=False).fit(x, y, batch_size=4, epochs=2, verbose=0)
        assert differ(everything(model)[:2], before[:2])
        found.append(everything(model))
    assert_same(*found)


@on_a_cpu
@pytest.mark.parametrize(("limit", "is_less"), [("4096\n", True), ("max\n", False), (str(2**62), False), (None, False)])
def test_a_containers_limit_counts(limit, is_less, tmp_path, monkeypatch):
    path = tmp_path / "memory.max"
    if limit is not None:
        path.write_text(limit)
    monkeypatch.setattr(device, "_CONTAINER_LIMIT", path)
    assert (device.memory() == 4096) is is_less
    assert device.memory() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


# As TensorFlow and its users' reports have them; the first was seen on an H200.
OUT_OF_MEMORY = {
    "CUDNN failed to allocate the scratch space for the runner or to find a working no-scratch runner.": tf.errors.UnknownError,
    "OOM when allocating tensor with shape[1024,64,64,64]": tf.errors.ResourceExhaustedError,
    "No algorithm worked!  Error messages:\n  Profiling failure on CUDNN engine eng11{}": tf.errors.NotFoundError,
    "Failed copying input tensor from CPU:0 to GPU:0: Dst tensor is not initialized.": tf.errors.InternalError,
    "failed to create cublas handle: CUBLAS_STATUS_ALLOC_FAILED": tf.errors.InternalError,
    "Attempting to perform BLAS operation using StreamExecutor without BLAS support": tf.errors.InternalError,
    "Failed to create cuFFT batched plan with scratch allocator": tf.errors.InternalError,
    "CUDA_ERROR_OUT_OF_MEMORY: out of memory": tf.errors.InternalError,
}
ANYTHING_ELSE = {
    "Received a label value of 7 which is outside the valid range of [0, 3).": tf.errors.InvalidArgumentError,
    "Fail to find the dnn implementation.": tf.errors.UnknownError,
    "No OpKernel was registered to support Op 'CudnnRNN'": tf.errors.InvalidArgumentError,
    "ZeroDivisionError: division by zero": tf.errors.UnknownError,
    "": tf.errors.UnknownError,
}


def test_short_memory_is_known_by_many_names():
    for errors, expected in ((OUT_OF_MEMORY, True), (ANYTHING_ELSE, False)):
        for message, kind in errors.items():
            assert device.is_out_of_memory(kind(None, None, message)) is expected, message
    assert not device.is_out_of_memory(ValueError("out of memory"))  # nobody's but the device's
