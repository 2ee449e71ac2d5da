import numpy as np
import pytest
import tensorflow as tf

from trainlab.objective import cutting

SIZE = 3


def values(parts):
    """The x of every piece, as lists."""
    return [to_list(part.fetch(tf.constant(i))[0]) for part in parts for i in range(int(part.num_batches))]


def to_list(x):
    return (tf.sparse.to_dense(x) if isinstance(x, tf.SparseTensor) else x).numpy().tolist()


def expected(rows, size=SIZE):
    return [rows[i : i + size] for i in range(0, len(rows), size)]


def in_graph(make, *arguments):
    """`make`'s pieces, in a graph that knows no sizes, put together again: each piece, and how many examples it held."""
    specs = [tf.TensorSpec([None, *a.shape[1:]], a.dtype) for a in arguments]

    @tf.function(input_signature=specs, autograph=False)
    def run(*tensors):
        total, sizes = tf.zeros([0, *arguments[0].shape[1:]], arguments[0].dtype), tf.zeros([0], tf.int32)
        for part in make(tensors):

            def body(i, total, sizes, part=part):
                x = part.fetch(i)[0]
                return i + 1, tf.concat([total, x], 0), tf.concat([sizes, tf.shape(x)[:1]], 0)

            shapes = [tf.TensorShape([]), tf.TensorShape([None, *total.shape[1:]]), tf.TensorShape([None])]
            num = tf.cast(part.num_batches, tf.int32)
            _, total, sizes = tf.while_loop(lambda i, *_, num=num: i < num, body, [tf.constant(0), total, sizes], shapes)
        return total, sizes

    return run(*arguments)


@pytest.mark.parametrize("num_examples", [1, 2, 3, 4, 6, 7, 12])
class TestPieces:
    def test_dense(self, num_examples):
        x = tf.range(2 * num_examples, dtype=tf.float32)[:, None]
        assert values(cutting.pieces((x, {"a": x}, None), SIZE)) == expected(x.numpy().tolist())

    def test_of_unknown_size(self, num_examples):
        x = tf.range(num_examples, dtype=tf.int64)
        total, sizes = in_graph(lambda tensors: cutting.pieces((tensors[0], None, None), SIZE), x)
        assert list(total) == list(x)
        assert list(sizes) == [len(part) for part in expected(list(x))]

    def test_ragged(self, num_examples):
        x = tf.RaggedTensor.from_row_lengths(tf.range(sum(range(num_examples))), list(range(num_examples)))
        assert [part.to_list() for part in ragged(cutting.pieces((x, None, None), SIZE))] == expected(x.to_list())

    def test_sparse(self, num_examples):
        x = np.random.default_rng(0).integers(0, 2, size=(num_examples, 4))
        sparse = tf.sparse.from_dense(x)
        assert values(cutting.pieces((sparse, None, None), SIZE)) == expected(x.tolist())


def ragged(parts):
    return [part.fetch(tf.constant(i))[0] for part in parts for i in range(int(part.num_batches))]


def test_many_batches_go_through_one_loop():
    sizes = [4, 1, 3, 7]
    x = np.arange(sum(sizes))
    batches = np.split(x, np.cumsum(sizes)[:-1])
    part = cutting.pieces_of_all(lambda i: (tf.constant(batches[int(i)]), None, None), len(sizes), SIZE)
    assert values([part]) == [[0, 1, 2], [3], [4], [5, 6, 7], [8, 9, 10], [11, 12, 13], [14]]


@pytest.mark.parametrize("num_batches", [1, 2])
def test_an_empty_batch_is_an_empty_piece(num_batches):
    empty = tf.zeros([0, 2])
    if num_batches == 1:
        total, sizes = in_graph(lambda tensors: cutting.pieces((tensors[0], None, None), SIZE), empty)
        assert list(sizes) == [0]
    else:
        part = cutting.pieces_of_all(lambda i: (empty, None, None), num_batches, SIZE)
        assert values([part]) == [[], []]


class TestWhatCannotBeCut:
    def test_sizes_that_shapes_show(self):
        with pytest.raises(ValueError, match="micro_batch_size needs .* first axes have 3 and 4"):
            cutting.check((tf.zeros([3, 2]), tf.zeros([4]), None), "micro_batch_size")
        cutting.check((tf.zeros([3, 2]), tf.zeros([3]), None), "distribute")  # control

    def test_a_scalar(self):
        with pytest.raises(ValueError, match="distribute needs .* a scalar: write distribute=None"):
            cutting.check((tf.zeros([3, 2]), tf.zeros([]), None), "distribute")

    def test_sizes_that_show_when_they_come(self):
        specs = [tf.TensorSpec([None, 2]), tf.TensorSpec([None])]

        @tf.function(input_signature=specs, autograph=False)
        def run(x, y):
            cutting.check((x, y, None), "micro_batch_size")
            return x, y

        x, y = run(tf.ones([3, 2]), tf.ones([3]))
        assert (x.shape, y.shape) == ((3, 2), (3,))
        with pytest.raises(tf.errors.InvalidArgumentError, match="micro_batch_size_needs_first_axes_of_one_size"):
            run(tf.ones([3, 2]), tf.ones([4]))
