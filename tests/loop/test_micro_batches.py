"""What does not fit: the line that says so, and "auto". Memory is what a layer says it is."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from small import assert_same, compiled, differ, everything, regression

from trainlab import Accumulate, Heun, Trainer
from trainlab.loop import jit
from trainlab.loop.programs import Programs


class Memory(keras.layers.Layer):
    """Passes on what holds at most `capacity` examples, and runs out of memory otherwise; remembers the sizes it met."""

    def __init__(self, capacity=10**9, **kwargs):
        super().__init__(**kwargs)
        self.capacity, self.met, self.error = capacity, [], MemoryError("the layer's memory is exhausted")

    def _pass(self, x):
        self.met.append(len(x))
        if len(x) > self.capacity:
            raise self.error  # TensorFlow makes a MemoryError a ResourceExhaustedError, a RuntimeError an UnknownError
        return x

    def call(self, x):
        if isinstance(x, keras.KerasTensor):
            return x
        return tf.ensure_shape(tf.py_function(self._pass, [x], x.dtype), x.shape)


def limited(capacity=10**9, **kwargs):
    """A model with noise, statistics and momentum, and its memory."""
    keras.utils.set_random_seed(1)
    memory = Memory(capacity)
    inputs = keras.Input([3])
    x = keras.layers.Dropout(0.3)(keras.layers.BatchNormalization()(inputs))
    model = keras.Model(inputs, keras.layers.Dense(1)(memory(x)))
    return compiled(model, keras.optimizers.SGD(0.01, momentum=0.9), **kwargs), memory


def data_of(kind, num_examples=24, batch_size=8):
    x, y = regression(num_examples)
    if kind == "arrays":
        return (x, y), {"batch_size": batch_size}
    return (tf.data.Dataset.from_tensor_slices((x, y)).batch(batch_size),), {}


SOURCES_AND_MODES = pytest.mark.parametrize(
    "kind, run_eagerly",
    [
        ("tf.data", False),
        ("arrays", True),
        pytest.param("arrays", False, marks=pytest.mark.slow),
        pytest.param("tf.data", True, marks=pytest.mark.slow),
    ],
)
BAD = [
    (0, ValueError),
    (-3, ValueError),
    ("half", ValueError),
    (2.0, TypeError),
    (True, TypeError),
    ([4], TypeError),
]


@pytest.mark.parametrize("value, kind", BAD, ids=repr)
def test_bad_values(value, kind):
    with pytest.raises(kind) as found:
        Trainer(compiled(), micro_batch_size=value)
    assert str(found.value).startswith("micro_batch_size must be a whole number of examples, at least 1, not")
    assert repr(value) in str(found.value) and '"auto"' in str(found.value) and "\n" not in str(found.value)


def test_good_values():
    sizes = [Trainer(compiled(), micro_batch_size=value).micro_batch_size for value in (None, "auto", 1, np.int64(7))]
    assert sizes == [None, None, 1, 7]


class TestTheLine:
    @pytest.mark.slow
    @SOURCES_AND_MODES
    def test_it_names_the_batch_and_the_remedy_and_nothing_has_moved(self, kind, run_eagerly):
        data, kwargs = data_of(kind)
        model, memory = limited()
        trainer = Trainer(model, Accumulate(3), run_eagerly=run_eagerly)
        trainer.fit(*data, verbose=0, **kwargs)
        start, iterations = everything(model), trainer.iterations
        memory.capacity = 5
        with pytest.raises(MemoryError) as found:
            trainer.fit(*data, verbose=0, **kwargs)
        assert str(found.value) == (
            "out of memory: a batch of 8 examples does not fit under Accumulate(num_batches=3, inner=SGD()), nothing was "
            'changed: write Trainer(..., micro_batch_size=4), or "auto"'
        )
        assert isinstance(found.value.__cause__, tf.errors.ResourceExhaustedError)
        assert trainer.iterations == iterations
        is_metric = {id(v) for v in model.metrics_variables}  # a fit begins by setting these anew
        kept = [not is_metric & {id(v)} for v in (*model.variables, *model.optimizer.variables)]
        pairs = [(a, b) for a, b, is_kept in zip(everything(model), start, kept, strict=True) if is_kept]
        assert_same(*map(list, zip(*pairs, strict=True)))
        memory.capacity = 8
        trainer.fit(*data, verbose=0, **kwargs)  # still of use
        assert trainer.iterations == 2 * iterations
        assert differ(everything(model), start)

    @pytest.mark.slow
    def test_of_a_piece(self):
        (x, y), kwargs = data_of("arrays")
        model, _ = limited(2)
        with pytest.raises(MemoryError, match=r"a piece of 6 examples of a batch does not fit .* micro_batch_size=3\), or"):
            Trainer(model, micro_batch_size=6).fit(x, y, verbose=0, **kwargs)
        model, memory = limited(3)
        Trainer(model, micro_batch_size=3).fit(x, y, verbose=0, **kwargs)  # the remedy
        assert set(memory.met) == {3, 2}

    @pytest.mark.parametrize("setting", ["auto", pytest.param(1, marks=pytest.mark.slow)])
    def test_of_a_single_example(self, setting):
        (x, y), kwargs = data_of("arrays")
        model, memory = limited(0)
        with pytest.raises(MemoryError, match=r"a single example does not fit under SGD\(\), .* no micro_batch_size helps"):
            Trainer(model, micro_batch_size=setting).fit(x, y, verbose=0, **kwargs)
        assert memory.met == ([8, 4, 2, 1] if setting == "auto" else [1])

    def test_other_errors_are_left_alone(self):
        (x, y), kwargs = data_of("arrays")
        model, memory = limited()
        memory._pass = lambda x: 1 / 0
        with pytest.raises(tf.errors.OpError, match="division"):
            Trainer(model, micro_batch_size="auto").fit(x, y, verbose=0, **kwargs)


class TestAuto:
    @pytest.mark.slow
    @SOURCES_AND_MODES
    def test_it_halves_until_it_fits_and_goes_on_as_if_told(self, kind, run_eagerly, capsys):
        data, kwargs = data_of(kind, 28, 13)  # the last batch holds 2
        model, memory = limited(4)
        trainer = Trainer(model, micro_batch_size="auto", run_eagerly=run_eagerly)
        assert trainer.micro_batch_size is None
        history = trainer.fit(*data, verbose=2, **kwargs)
        assert trainer.micro_batch_size == 3
        line = 'micro_batch_size="auto": batches do not fit whole, they are evaluated 3 examples at a time'
        assert capsys.readouterr().out.splitlines().count(line) == 1
        assert set(memory.met) >= {13, 6, 3} and sorted(set(memory.met))[-3:] == [3, 6, 13]
        assert trainer.iterations == 3
        told, _ = limited()
        expected = Trainer(told, micro_batch_size=3, run_eagerly=run_eagerly).fit(*data, verbose=0, **kwargs)
        assert_same(everything(model), everything(told))
        assert history.history == expected.history
        other, _ = limited()  # control
        Trainer(other, micro_batch_size=4, run_eagerly=True).fit(*data, verbose=0, **kwargs)
        assert differ(everything(model), everything(other))

    @pytest.mark.slow
    @pytest.mark.parametrize("run_eagerly", [False, True])
    def test_a_gpu_that_tells_it_in_other_words(self, run_eagerly):
        (x, y), kwargs = data_of("arrays")
        model, memory = limited(4)
        memory.error = RuntimeError("CUDNN failed to allocate the scratch space for the runner or to find a working one")
        trainer = Trainer(model, micro_batch_size="auto", run_eagerly=run_eagerly)
        trainer.fit(x, y, verbose=0, **kwargs)
        assert (trainer.micro_batch_size, trainer.iterations) == (4, 3)
        memory.error, memory.capacity = RuntimeError("the layer is broken"), 2
        with pytest.raises(tf.errors.UnknownError, match="the layer is broken"):
            trainer.fit(x, y, verbose=0, **kwargs)
        assert trainer.micro_batch_size == 4

    @pytest.mark.slow
    def test_it_is_kept(self, capsys):
        (x, y), kwargs = data_of("arrays")
        model, memory = limited(4)
        trainer = Trainer(model, micro_batch_size="auto")
        trainer.fit(x, y, verbose=0, **kwargs)
        assert (trainer.micro_batch_size, trainer.num_traces) == (4, 2)
        memory.met.clear()
        trainer.fit(x, y, verbose=2, **kwargs)
        assert trainer.num_traces == 2
        trainer.strategy = Heun()
        trainer.fit(x, y, verbose=2, **kwargs)
        assert set(memory.met) == {4}
        assert "micro_batch_size" not in capsys.readouterr().out
        memory.capacity = 1
        trainer.fit(x, y, verbose=2, **kwargs)
        assert trainer.micro_batch_size == 1
        assert capsys.readouterr().out.count("micro_batch_size") == 1

    @pytest.mark.slow
    def test_what_fits_is_left_whole(self, capsys):
        (x, y), kwargs = data_of("arrays")
        ends = []
        for setting in ("auto", None):
            model, _ = limited(8)
            trainer = Trainer(model, micro_batch_size=setting)
            trainer.fit(x, y, verbose=2, **kwargs)
            assert trainer.micro_batch_size is None
            ends.append(everything(model))
        assert_same(*ends)
        assert "micro_batch_size" not in capsys.readouterr().out

    @pytest.mark.slow
    def test_only_the_failed_call_is_run_again(self):
        """The batches grow: the first calls go through whole, and their bits stay."""
        x, y = regression(30)
        sizes = [2, 4, 6, 8, 10]
        ends = np.cumsum(sizes)

        def generate():
            for size, end in zip(sizes, ends, strict=True):
                yield x[end - size : end], y[end - size : end]

        signature = tuple(tf.TensorSpec([None, width], tf.float32) for width in (3, 1))
        data = tf.data.Dataset.from_generator(generate, output_signature=signature)
        model, memory = limited(6)
        trainer = Trainer(model, micro_batch_size="auto", steps_per_execution=1)
        trainer.fit(data, verbose=0)
        assert memory.met[:4] == [2, 4, 6, 8]
        assert (trainer.micro_batch_size, trainer.iterations) == (4, 5)
        assert memory.met[4:7] == [4, 4, 4]

        reference, _ = limited()
        Trainer(reference).fit(data.take(3), verbose=0)
        metrics = [np.array(v) for v in reference.metrics_variables]
        keep = keras.callbacks.LambdaCallback(
            on_epoch_begin=lambda epoch, logs: [v.assign(m) for v, m in zip(reference.metrics_variables, metrics, strict=True)]
        )
        Trainer(reference, micro_batch_size=4).fit(data.skip(3), verbose=0, callbacks=[keep])
        assert_same(everything(model), everything(reference))


class TestWhileXlaIsTried:
    @pytest.fixture(autouse=True)
    def _eager_to_try(self, monkeypatch):
        monkeypatch.setattr(jit, "FEWEST_UPDATES", 1)
        monkeypatch.setattr(jit, "SHARE", 1e6)
        monkeypatch.setattr(jit, "_SECONDS_A_TIMING", 0.001)
        monkeypatch.setattr(jit, "_LEAD", 1)

    def test_without_it_the_choice_is_put_off(self):
        (x, y), kwargs = data_of("arrays")
        model, memory = limited(4)
        trainer = Trainer(model, micro_batch_size="auto")
        trainer.fit(x, y, verbose=0, **kwargs)
        assert memory.met[:4] == [8, 8, 4, 4]  # once on copies, which is no reason to halve; then in earnest
        assert (trainer.micro_batch_size, trainer.jit_compile) == (4, None)

    @pytest.mark.parametrize(
        "kind, said", [("ResourceExhaustedError", "XLA needs more"), ("InternalError", "Failed to allocate")]
    )
    def test_with_it_there_is_no_xla(self, kind, said, monkeypatch, capsys):
        original = Programs.get

        def exhausted(*arguments):
            raise getattr(tf.errors, kind)(None, None, said)

        def function(self, layout, jit_compile):
            found = original(self, layout, jit_compile)
            return _Failing(found, exhausted) if jit_compile else found

        monkeypatch.setattr(Programs, "get", function)
        (x, y), kwargs = data_of("arrays")
        trainer = Trainer(compiled(), micro_batch_size="auto")
        trainer.fit(x, y, verbose=2, **kwargs)
        assert (trainer.micro_batch_size, trainer.jit_compile) == (None, False)
        assert "without XLA, which takes more memory than there is" in capsys.readouterr().out


class _Failing:
    """A concrete function that fails when it is called."""

    def __init__(self, function, call):
        self._function, self._call = function, call

    def __getattr__(self, name):
        return getattr(self._function, name)

    def __call__(self, *arguments):
        return self._call(*arguments)
