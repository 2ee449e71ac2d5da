import itertools
import json
import warnings

import keras
import numpy as np
import pytest
from small import on_a_cpu, regression
from tables import Sam

import trainlab as tl
from trainlab.runs import manifest
from trainlab.runs.manifest import fingerprints, machine
from trainlab.runs.manifest.plain import plain


def model_of(*activations, units=4, loss="mse", optimizer=None, names=None, metrics=()):
    names = names or [None] * len(activations)
    layers = [keras.layers.Dense(units, activation=a, name=n) for a, n in zip(activations, names, strict=True)]
    model = keras.Sequential([keras.Input([3]), *layers, keras.layers.Dropout(0.5), keras.layers.Dense(1)])
    model.compile(optimizer=optimizer or keras.optimizers.Adam(0.1), loss=loss, metrics=list(metrics))
    model.optimizer.build(model.trainable_variables)
    return model


def rows_that_differ(a, b):
    return sorted({difference.row for difference in manifest.differences(a, b)})


def test_a_model_built_again_is_the_same():
    first, second = model_of("relu", "tanh"), model_of("relu", "tanh")
    assert first.layers[0].name != second.layers[0].name  # Keras counts up
    assert manifest.differences(manifest.of_model(first), manifest.of_model(second)) == []


def step_loss(y, p):
    return keras.ops.mean(keras.ops.abs(y - p))


@pytest.mark.parametrize(
    "change, rows",
    [
        ({"activations": ("tanh", "relu")}, ["model"]),  # swapped
        ({"names": ("b", "a")}, ["model", "variables"]),  # same shapes, other places
        ({"units": 5}, ["model", "optimizer variables", "variables"]),
        ({"loss": "mae"}, ["loss and metrics"]),
        ({"loss": step_loss}, ["loss and metrics"]),
        ({"metrics": ("mae",)}, ["loss and metrics"]),
        ({"optimizer": lambda: keras.optimizers.Adamax(0.1)}, ["optimizer"]),
        ({"optimizer": lambda: keras.optimizers.Adam(0.1, beta_1=0.8)}, ["optimizer"]),
        ({"optimizer": lambda: keras.optimizers.Adam(0.1, clipnorm=1.0)}, ["optimizer"]),
        ({"optimizer": lambda: keras.optimizers.Adam(0.2)}, ["learning_rate"]),
        ({"optimizer": lambda: keras.optimizers.Adam(0.1, amsgrad=True)}, ["optimizer", "optimizer variables"]),
    ],
)
def test_what_tells_two_models_apart(change, rows):
    change = dict(change)
    if "optimizer" in change:
        change["optimizer"] = change["optimizer"]()
    settings = {"names": ("a", "b"), "activations": ("relu", "tanh"), **change}
    first = model_of("relu", "tanh", names=("a", "b"))
    second = model_of(*settings.pop("activations"), **settings)
    assert rows_that_differ(manifest.of_model(first), manifest.of_model(second)) == rows


def test_metrics_may_be_made_again():
    a, b = (manifest.of_model(model_of("relu", metrics=[keras.metrics.AUC(), keras.metrics.AUC()])) for _ in range(2))
    assert manifest.differences(a, b) == []


class Subclassed(keras.Model):
    def __init__(self, activation):
        super().__init__()
        self.dense = keras.layers.Dense(1, activation=activation)

    def call(self, x):
        return self.dense(x)


def test_a_subclassed_model_is_compared_layer_by_layer():
    def built(activation):
        model = Subclassed(activation)
        model.compile(loss="mse")
        model.build((None, 3))
        model.optimizer.build(model.trainable_variables)
        return manifest.of_model(model)

    assert rows_that_differ(built("relu"), built("relu")) == []
    assert rows_that_differ(built("relu"), built("tanh")) == ["model"]


@pytest.mark.parametrize(
    "other",
    [tl.SGD(), Sam(0.1), tl.Accumulate(2, Sam()), tl.Accumulate(3, tl.Heun()), tl.Accumulate(2, tl.Accumulate(2, tl.Heun()))],
    ids=repr,
)
def test_strategies_differ_by_class_and_settings(other):
    saved = {"strategy": plain(tl.Accumulate(2, tl.Heun()))}
    assert manifest.differences(saved, {"strategy": plain(tl.Accumulate(2, tl.Heun()))}) == []
    assert rows_that_differ(saved, {"strategy": plain(other)}) == ["strategy"]
    assert plain(Sam(0.05)) == plain(Sam())


def test_data_are_compared_by_their_bytes(monkeypatch):
    x, y = regression()
    saved = manifest.of_data((x, y, None))
    assert manifest.of_data((x.copy(), y, None)) == saved
    other = x.copy()
    other[7, 1] = np.nextafter(other[7, 1], 9)
    for changed in [(other, y, None), (x[::-1], y, None), (x, y, y), (x.astype("float64"), y, None), (x[:-1], y[:-1], None)]:
        assert manifest.of_data(changed) != saved
    assert manifest.of_data((np.asfortranarray(x), y, None)) == saved
    # Of large data, blocks: the first and the last among them.
    monkeypatch.setattr(fingerprints, "_MAX_HASHED", 2**12)
    monkeypatch.setattr(fingerprints, "_BLOCK", 2**8)
    large = np.arange(10_000, dtype="int64")
    few = manifest.of_data(large)
    for place in (0, -1):
        changed = large.copy()
        changed[place] += 1
        assert manifest.of_data(changed) != few


def test_every_row_has_a_rule_and_every_difference_a_remedy():
    model = model_of("relu")
    assert set(manifest.of_model(model)) | set(manifest.of_machine()) <= set(manifest.RULES)
    for row, (severity, remedy) in manifest.RULES.items():
        (difference,) = manifest.differences({row: 1}, {row: 2})
        assert str(difference) == f"{row}: saved 1, now 2 ({remedy})"
        refusing, warning = manifest.refusals([difference])
        assert (len(refusing), len(warning)) == ((1, 0) if severity == manifest.REFUSE else (0, 1))
    (difference,) = manifest.differences({"learning_rate": 0.1}, {"learning_rate": 0.2})
    assert manifest.refusals([difference], ["learning_rate"]) == ([], [])


def test_what_is_gone_and_what_is_new_are_differences():
    assert str(manifest.differences({"data": {"a": 1}}, {"data": {"b": float("nan")}})[0]).startswith(
        "data a: saved 1, now nothing"
    )
    assert manifest.differences({"data": {"b": float("nan")}}, {"data": {"b": float("nan")}}) == []


def as_saved(rows):
    return json.loads(json.dumps(rows))


def checked(saved, current, override=()):
    """The warnings that a check gives; the error, if it refuses."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        manifest.check("runs/a", as_saved(saved), current, override)
    return [str(warning.message) for warning in warned]


class Private(tl.StepStrategy):
    def __init__(self, rho=0.1):
        self._rho, self._random, self.traces = rho, np.random.default_rng(), 0

    def step(self, objective, state):
        self.traces += 1
        here = objective(state.parameters)
        return tl.Step(here.gradient * self._rho, at=here)


FORM = {"form": {"manifest": 2, "code": "cpython-311"}}


def test_what_cannot_be_compared_is_named_in_one_warning():
    rows = [{"strategy": plain(Private())} | FORM for _ in range(2)]
    (line,) = checked(*rows)
    places = "strategy _random (a Generator); strategy traces (set while training)"
    assert line == f"resuming; what cannot be compared must be as it was: {places}"
    with pytest.raises(manifest.OtherRun, match=r"strategy _rho: saved 0.1, now 0.2 \(give the Trainer the one that was saved"):
        checked(rows[0], {"strategy": plain(Private(0.2))} | FORM)
    assert checked({"strategy": plain(Sam())} | FORM, {"strategy": plain(Sam())} | FORM) == []


def test_code_of_another_python_is_not_compared_and_that_is_said():
    saved = {"strategy": plain(Private()), "form": {"manifest": 2, "code": "cpython-399"}}
    for place in ("__init__()", "step()"):
        saved["strategy"][place]["code"] = "bytecode of another"
    (line,) = checked(saved, {"strategy": plain(Private())} | FORM)
    assert "strategy step() (code, which another Python compiled)" in line
    with pytest.raises(manifest.OtherRun, match="strategy _rho"):
        checked(saved, {"strategy": plain(Private(0.2))} | FORM)
    with pytest.raises(manifest.OtherRun, match=r"strategy step\(\).code: saved 'bytecode of another', now 'bytecode "):
        checked(saved | FORM, {"strategy": plain(Private())} | FORM)


def doubled(x):
    return x * 2


def in_the_old_form(value):
    """What `plain` wrote of a strategy, an optimizer or a function before it read code."""
    if isinstance(value, tl.StepStrategy):
        attributes = {name: in_the_old_form(item) for name, item in vars(value).items() if not name.startswith("_")}
        return {"class": f"{type(value).__module__}.{type(value).__qualname__}", "source": "0123456789abcdef", **attributes}
    if callable(value):
        name = f"{value.__module__}.{value.__qualname__}"
        return {"function": name, "source": "0123456789abcdef", "closure": [], "defaults": None}
    return value


def old_manifest(model, strategy, loss):
    rows = manifest.of_model(model) | manifest.of_machine()
    del rows["layers' code"]
    optimizer = model.optimizer.get_config()
    optimizer = {name: item for name, item in optimizer.items() if name not in ("learning_rate", "name")}
    rows["optimizer"] = {"class": f"{type(model.optimizer).__module__}.{type(model.optimizer).__qualname__}", **optimizer}
    rows["loss and metrics"] = {"loss": in_the_old_form(loss), "loss_weights": None, "metrics": [], "weighted_metrics": None}
    return as_saved(rows | {"strategy": in_the_old_form(strategy), "seed": 0})


@pytest.mark.parametrize("strategy", [tl.SGD(), tl.Heun(), tl.Accumulate(2, tl.Heun())], ids=repr)
def test_a_checkpoint_of_an_older_trainlab_resumes(strategy):
    model = model_of("relu")
    model.compile(optimizer=model.optimizer, loss="mse", metrics=[])
    saved = old_manifest(model, strategy, "mse")
    current = as_saved(manifest.of_model(model) | manifest.of_machine() | {"strategy": plain(strategy), "seed": 0} | FORM)
    assert checked(saved, current) == []
    for row, value in [
        ("strategy", plain(tl.Accumulate(3, tl.Heun()))),
        ("seed", 1),
        ("variables", saved["variables"][:-1]),
        ("model", saved["model"] | {"layers": []}),
        ("optimizer", current["optimizer"] | {"beta_1": 0.5}),
        ("learning_rate", 7.0),
        ("loss and metrics", current["loss and metrics"] | {"loss": "mae"}),
    ]:
        with pytest.raises(manifest.OtherRun, match=row):
            checked(saved, current | {row: value})


def test_of_an_older_checkpoint_what_is_not_in_it_is_named():
    model = model_of(doubled, loss=step_loss)
    saved = old_manifest(model, Private(), step_loss)
    current = manifest.of_model(model) | manifest.of_machine() | {"strategy": plain(Private()), "seed": 0} | FORM
    (line,) = checked(saved, current)
    for place in ("strategy _rho", "strategy step()", "loss and metrics loss.code", "layers' code"):
        assert place in line
    assert line.count("(not in checkpoints of an older trainlab)") == 1 and "source" not in line
    with pytest.raises(manifest.OtherRun, match="strategy class: saved 'Sam', now 'Private'"):
        checked(saved | {"strategy": in_the_old_form(Sam())}, current)


@pytest.mark.parametrize("wrap", [lambda optimizer: optimizer, keras.optimizers.LossScaleOptimizer])
def test_the_rates_of_several_optimizers_are_compared_with_those_of_an_older_checkpoint(wrap):
    def rows(slow, decay=None):
        one, two = keras.optimizers.SGD(slow), keras.optimizers.SGD(0.2, weight_decay=decay)
        several = keras.optimizers.MultiOptimizer(lambda v: one if "kernel" in v.path else two)
        return as_saved(manifest.of_model(model_of("relu", optimizer=wrap(several))))

    saved = rows(0.1)
    assert saved["learning_rate"] == [0.1, 0.2]
    several = saved["optimizer"].get("inner", saved["optimizer"])["optimizers"]
    for one, rate in zip(several, saved.pop("learning_rate"), strict=True):
        one["learning_rate"] = rate  # where it stood
    saved["learning_rate"] = None
    assert checked(saved, rows(0.1)) == []
    with pytest.raises(manifest.OtherRun, match=r"learning_rate: saved \[0.1, 0.2\], now \[0.3, 0.2\]"):
        checked(saved, rows(0.3))
    assert checked(saved, rows(0.3), ["learning_rate"]) == []
    with pytest.raises(manifest.OtherRun, match="optimizers.1..weight_decay"):
        checked(saved, rows(0.3, 0.1), ["learning_rate"])


@pytest.mark.parametrize(
    ("place", "before", "now"), [("epsilon", 1e-7, 1e-3), ("image_data_format", "channels_last", "channels_first")]
)
def test_the_configuration_of_keras_is_compared(place, before, now):
    saved = as_saved(manifest.of_model(model_of("relu")))
    change = getattr(keras.config, f"set_{place}")
    change(now)
    try:
        current = manifest.of_model(model_of("relu"))
    finally:
        change(before)
    with pytest.raises(manifest.OtherRun, match=f"keras.config {place}: saved {before!r}, now {now!r} .set them as they were"):
        checked(saved, current)
    del saved["keras.config"]  # of one that was written before
    assert checked(saved, current) == []


@on_a_cpu
def test_another_processor_is_said(monkeypatch):
    cpus = [f"x86_64\nmodel name\t: {name}\nflags\t: sse {more}" for name, more in (("A", ""), ("B", ""), ("B", "avx"))]
    found = []
    for cpu, onednn in ((cpus[0], None), (cpus[0], "1"), (cpus[1], None), (cpus[1], "0"), (cpus[2], "0")):
        monkeypatch.setattr(machine, "processor", lambda cpu=cpu: cpu)
        monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS", raising=False)
        if onednn is not None:
            monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", onednn)
        found.append(as_saved(manifest.of_machine()))
    said = [checked(a, b) for a, b in itertools.pairwise(found)]
    assert said[0] == [] and ["processor name: saved 'A', now 'B'" in line for line in said[1]] == [True, False]
    assert [len(lines) for lines in said] == [0, 2, 1, 1] and "TF_ENABLE_ONEDNN_OPTS: saved '1', now '0'" in said[2][0]
    del found[0]["processor"]  # of one that was written before
    assert checked(found[0], found[2]) == []


class Ended(Exception):
    pass


def rows_of(trainer, monkeypatch, *args, **kwargs):
    """What a `fit` would be compared by."""
    of_fit, caught = manifest.of_fit, []

    def catching(*args, **kwargs):
        caught.append(of_fit(*args, **kwargs))
        raise Ended

    with monkeypatch.context() as patched, pytest.raises(Ended):
        patched.setattr(manifest, "of_fit", catching)
        trainer.fit(*args, verbose=0, **kwargs)
    return caught[0]


def test_the_rows_of_a_fit(monkeypatch, tmp_path):
    x, y = np.ones([40, 3], "float32"), np.ones([40, 1], "float32")

    def caught(strategy=None, on_nonfinite="stop", **kwargs):
        model = model_of("relu", names=["a"])
        trainer = tl.Trainer(model, strategy, run=tmp_path / "a", on_nonfinite=on_nonfinite)
        return rows_of(trainer, monkeypatch, x, y, **kwargs)

    rows = caught()
    assert manifest.differences(rows, caught()) == []
    assert rows_that_differ(rows, caught(initial_epoch=2, epochs=3)) == ["initial_epoch"]
    assert rows_that_differ(rows, caught(strategy=Private())) == ["strategy"]
    assert set(rows) - {"form"} <= set(manifest.RULES)
    assert rows_that_differ(rows, caught(on_nonfinite="skip")) == ["on_nonfinite"]


@pytest.mark.slow
def test_a_resume_refuses_what_it_did_not_see(tmp_path):
    x, y = np.ones([40, 3], "float32"), np.ones([40, 1], "float32")

    def fit(rho, epochs, **kwargs):
        trainer = tl.Trainer(model_of("relu", names=["a"]), Private(rho), run=tmp_path / "a")
        trainer.fit(x, y, epochs=epochs, verbose=0, **kwargs)
        return trainer

    fit(0.1, 1)
    with pytest.raises(manifest.OtherRun, match="strategy _rho: saved 0.1, now 0.2"):
        fit(0.2, 2)
    with pytest.raises(manifest.OtherRun, match="initial_epoch: saved 0, now 1 .call fit with the one that was saved"):
        fit(0.1, 2, initial_epoch=1)
    with pytest.warns(UserWarning, match="what cannot be compared must be as it was: strategy _random") as warned:
        assert fit(0.1, 2).resumed_at == 2
    assert len([w for w in warned if "cannot be compared" in str(w.message)]) == 1
    assert fit(0.2, 1, resume="weights").resumed_at is None  # the way out that the line names
