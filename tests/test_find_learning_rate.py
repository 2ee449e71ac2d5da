"""`Trainer.find_learning_rate`: what it finds, and the line for each mistake."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from own_steps import Vae
from small import assert_same, compiled, dense_model, everything, regression
from sweeping import Quadratic, found

import trainlab as tl

X, Y = regression()


class TestWhatItFinds:
    @pytest.mark.parametrize("strategy", [tl.SGD(), tl.Heun(), tl.Accumulate(2), tl.Accumulate(3, tl.Heun())], ids=repr)
    @pytest.mark.parametrize("curvatures", [(4.0,), (37.0, 37.0), (5.0, 0.5, 0.1), (0.9, 64.0)])
    def test_a_quadratic_diverges_at_two_over_its_curvature(self, strategy, curvatures):
        rates = found(Quadratic(*curvatures), strategy)
        factor = rates.learning_rates[1] / rates.learning_rates[0]
        assert 2 / max(curvatures) <= rates.diverged_at < factor * 2 / max(curvatures) * (1 + 1e-6)
        assert rates.suggestion == pytest.approx(rates.diverged_at / 10)

    @pytest.mark.parametrize("floor", [-3.0, 0.5, 100.0])
    def test_what_does_not_depend_on_the_weights_changes_little(self, floor):
        rates = found(Quadratic(10.0, floor=floor))
        assert rates.diverged_at == pytest.approx(0.2, rel=0.45)  # of 0.5 + 100 no float shows the last of what falls

    def test_the_losses_are_those_of_the_updates(self):
        rates = found(Quadratic(2.0), smallest=0.01, largest=0.3, num_updates=6)
        w, losses = 1.0, []
        for rate in np.geomspace(0.01, 0.3, 6):
            losses.append(w * w)
            w *= 1 - 2 * rate
        np.testing.assert_allclose(rates.losses, losses, rtol=1e-5)
        np.testing.assert_allclose(rates.learning_rates, np.geomspace(0.01, 0.3, 6))
        assert rates.diverged_at is None
        assert "did not diverge up to 0.3" in rates.why

    @pytest.mark.slow
    def test_the_update_is_the_one_that_fit_makes(self):
        """Momentum diverges later than SGD: at 2(1 + m)/L."""
        momentum = found(Quadratic(10.0), optimizer=keras.optimizers.SGD(0.01, momentum=0.5), num_updates=200)
        plain = found(Quadratic(10.0), num_updates=200)
        assert momentum.diverged_at == pytest.approx(0.3, rel=0.12)
        assert plain.diverged_at == pytest.approx(0.2, rel=0.1)

    def test_batches_that_differ_are_no_divergence(self):
        rates = tl.Trainer(compiled()).find_learning_rate(X, Y, batch_size=1, smallest=1e-8, largest=1e-5)
        assert rates.diverged_at is None
        assert max(rates.losses) > 50 * min(rates.losses)


class Deaf(keras.optimizers.SGD):
    """Takes the same steps at any rate."""

    def update_step(self, gradient, variable, learning_rate):
        super().update_step(gradient, variable, 0.001)


class TestLines:
    @pytest.mark.parametrize(
        ("kwargs", "line"),
        [
            ({"smallest": 0}, "smallest must be a finite learning rate above 0, not 0"),
            ({"smallest": -1.0}, "smallest must be a finite learning rate above 0, not -1.0"),
            ({"largest": float("inf")}, "largest must be a finite learning rate above 0, not inf"),
            ({"smallest": "1e-5"}, "smallest must be a learning rate, a number above 0, not '1e-5'"),
            ({"largest": "much"}, "largest must be a learning rate, a number above 0, not 'much'"),
            ({"smallest": 1.0, "largest": 0.1}, "smallest must be less than largest, not 1 and 0.1"),
            ({"num_updates": 1}, "num_updates"),
            ({"num_updates": 2.5}, "num_updates"),
            ({"batch_size": 0}, "batch_size"),
        ],
    )
    def test_bad_arguments(self, kwargs, line):
        with pytest.raises((TypeError, ValueError)) as caught:
            tl.Trainer(compiled()).find_learning_rate(X, Y, **kwargs)
        assert line in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_nothing_to_train(self):
        model = compiled()
        model.trainable = False
        model.compile(optimizer="sgd", loss="mse")
        with pytest.raises(ValueError, match="no trainable weights: there is no learning rate to look for"):
            tl.Trainer(model).find_learning_rate(X, Y)

    def test_a_loss_that_is_not_finite_from_the_start(self):
        model = compiled(loss=lambda y, p: keras.ops.log(keras.ops.zeros_like(y)) + 0 * p)
        trainer = tl.Trainer(model)
        with pytest.raises(
            tl.NonFiniteError, match="the update at a learning rate of 1e-07 is not finite: .*loss of -inf"
        ) as caught:
            trainer.find_learning_rate(X, Y)
        assert "\n" not in str(caught.value)

    def test_a_batch_that_is_not_finite_is_no_divergence(self):
        bad = X.copy()
        bad[17] = np.nan
        data = tf.data.Dataset.from_tensor_slices((bad, Y)).batch(4)
        trainer = tl.Trainer(compiled())
        before = everything(trainer.model)
        with pytest.raises(tl.NonFiniteError, match="in its batch, x holds NaN.*everything is as it was"):
            trainer.find_learning_rate(data)
        assert_same(everything(trainer.model), before)

    def test_what_is_not_finite_in_the_sweep_ends_it(self):
        class Brittle(Quadratic):
            def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
                return keras.ops.log(1.5 - keras.ops.sum(self.w)) + 5.0 + 0.0 * keras.ops.sum(x)

        model = Brittle(1.0)
        rates = found(model, smallest=1e-4, largest=1e3)
        assert rates.learning_rates[-1] < 1e3
        assert np.isfinite(rates.losses).all()
        assert np.array(model.w).tolist() == [1.0]

    def test_one_that_never_diverges(self):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input([3]), keras.layers.Dense(1, "sigmoid")])
        rates = tl.Trainer(compiled(model)).find_learning_rate(X, (Y > 0).astype("float32"), batch_size=20)
        assert rates.diverged_at is None
        assert "did not diverge up to 10" in rates.why
        assert 1e-7 < rates.suggestion <= 10

    def test_a_rate_that_does_not_matter(self):
        rates = tl.Trainer(compiled(optimizer=Deaf(0.3))).find_learning_rate(X, Y)
        assert "does not matter" in rates.why
        assert rates.suggestion == pytest.approx(0.3)

    @pytest.mark.parametrize("optimizer", ["sgd", "adam", "adadelta", "adafactor", "lion"])
    def test_one_that_matters(self, optimizer):
        model = dense_model(lambda: keras.layers.Dense(1, "sigmoid", kernel_constraint=keras.constraints.UnitNorm()))
        rates = tl.Trainer(compiled(model, optimizer)).find_learning_rate(X, (Y > 0).astype("float32"), batch_size=20)
        assert "does not matter" not in rates.why

    def test_nothing_falls(self):
        rates = tl.Trainer(compiled()).find_learning_rate(X, Y, smallest=1e-12, largest=1e-11, num_updates=10)
        assert "neither falls nor diverges" in rates.why
        assert rates.suggestion == pytest.approx(0.1)

    def test_it_diverges_from_the_beginning(self):
        rates = found(Quadratic(1.0), smallest=2.5, largest=300.0)
        assert rates.diverged_at == pytest.approx(2.5)
        assert rates.suggestion == pytest.approx(0.25)
        assert "smaller smallest" in rates.why

    @pytest.mark.slow
    def test_of_several_optimizers_the_ratios_are_kept(self):
        one, two = keras.optimizers.SGD(0.1), keras.optimizers.SGD(0.05)
        optimizer = keras.optimizers.MultiOptimizer(lambda v: one if "kernel" in v.path else two)
        rates = tl.Trainer(compiled(optimizer=optimizer)).find_learning_rate(X, Y, batch_size=20)
        assert "the others keep their ratios" in rates.why

    @pytest.mark.slow
    def test_a_step_that_tells_no_loss(self):
        class Silent(Vae):
            def train_step(self, data):
                return {"size": list(super().train_step(data).values())[0]}

        keras.utils.set_random_seed(0)
        model = Silent()
        model.compile(optimizer="sgd")
        with pytest.raises(ValueError, match="Silent.train_step returns 'size': return a 'loss' too"):
            tl.Trainer(model).find_learning_rate(np.zeros([8, 6], "float32"))


class TestThePicture:
    @pytest.mark.slow
    def test_it_is_one_line_and_an_image(self, tmp_path):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            rates = found(Quadratic(5.0))
            figure = rates.plot(tmp_path / "lr.png")
            html = rates._repr_html_()
        assert (tmp_path / "lr.png").read_bytes()[:4] == b"\x89PNG"
        assert figure.axes[0].get_xscale() == "log"
        assert len(figure.axes[0].lines) == 4
        assert "\n" not in repr(rates)
        assert rates.why in repr(rates)
        assert "data:image/png;base64," in html
        assert found(Quadratic(5.0), largest=0.1).plot().axes[0].lines[2].get_xdata()[0] > 0

    def test_without_matplotlib(self, monkeypatch):
        rates = found(Quadratic(5.0))
        monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
        monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
        with pytest.raises(ImportError, match=r"pip install 'trainlab\[report\]'"):
            rates.plot()
        assert "<img" not in rates._repr_html_()
