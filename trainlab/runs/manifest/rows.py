"""What a run is made of, as plain data: compared before anything is restored, so that a checkpoint never enters another run.

What a difference means is one table, `RULES`.
"""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from trainlab.data import Inputs
from trainlab.loop import Findings, Plan, code
from trainlab.objective import inner_of, keras_internals
from trainlab.runs.manifest.fingerprints import IN_CHECKPOINTS, fingerprint
from trainlab.runs.manifest.layers import of_layers
from trainlab.runs.manifest.machine import of_machine, version
from trainlab.runs.manifest.operations import first_names
from trainlab.runs.manifest.optimizers import are_but_for_the_rate, learning_rate, of_optimizer, with_rates_apart
from trainlab.runs.manifest.plain import NOT_COMPARED, Reader, plain, renamed
from trainlab.runs.manifest.records import as_in_second_form
from trainlab.strategies import StepStrategy

# Every row of a manifest: what a difference in it does, and what to do about it.
REFUSE, WARN = "refuse", "warn"
_ANEW = 'to train on with others, begin a new run by resume="weights"'
RULES: dict[str, tuple[str, str]] = {
    "model": (REFUSE, "build the model as it was"),
    "variables": (REFUSE, "build the model as it was"),
    "inner layers": (REFUSE, "set the layers inside your model, or inside your layers, as they were"),
    "layers' code": (REFUSE, f"give the layers the code and the settings that they had; {_ANEW}"),
    "loss and metrics": (REFUSE, f"compile with those that were saved, their code included; {_ANEW}"),
    "optimizer": (REFUSE, f"compile with the one that was saved, its code included; {_ANEW}"),
    "optimizer variables": (REFUSE, "compile with the one that was saved"),
    "learning_rate": (REFUSE, 'give it back, or say override=["learning_rate"] to go on with the new one'),
    "strategy": (REFUSE, f"give the Trainer the one that was saved, its code and attributes included; {_ANEW}"),
    "seed": (REFUSE, "give the Trainer the one that was saved"),
    "batches": (REFUSE, "call fit with what was saved"),
    "initial_epoch": (REFUSE, "call fit with the one that was saved: how far the run has come is in the checkpoint"),
    "data": (REFUSE, "give fit the data that were saved"),
    "dtypes": (REFUSE, "set them as they were"),
    "keras.config": (REFUSE, "set them as they were"),
    "jit_compile": (REFUSE, 'give the one that was saved, or "auto", which takes it'),
    "micro_batch_size": (REFUSE, 'give the one that was saved, or "auto", which takes it'),
    "on_nonfinite": (REFUSE, 'give it back, or say override=["on_nonfinite"] to go on with the new one'),
    "sum_duplicate_rows": (REFUSE, f"give the Trainer the one that was saved; {_ANEW}"),
    "replicas": (WARN, "the data go on in the same order, but dropout masks differ, and the result in the last digits"),
    "run_eagerly": (WARN, "the result may differ in the last bits"),
    "determinism": (WARN, "the result may differ in the last bits"),
    "tensor_float_32": (WARN, "products of float32 differ, on GPUs that have it"),
    "compiler": (WARN, "the result may differ in the last bits"),
    "threads": (WARN, "the result may differ in the last bits"),
    "device": (WARN, "the result may differ in the last bits"),
    "processor": (WARN, "the result may differ in the last bits"),
    "versions": (WARN, "the result may differ in the last bits"),
}
# What a user may change on purpose, by naming it.
OVERRIDABLE = ("learning_rate", "data", "micro_batch_size", "on_nonfinite")
_MAX_LINES = 3  # of differences in one row that are shown

# The entry that says how a manifest is written, since its second form, and the rows that were otherwise in the first; the
# third has more keys.
_FORM = "form"
_NEW_FORM = ("strategy", "layers' code", "loss and metrics", "optimizer", "learning_rate", "versions")

# What an update is traced with.
OF_TRACED = ("model", "inner layers", "layers' code", "loss and metrics", "optimizer", "strategy")

Manifest = dict[str, Any]


class Difference(NamedTuple):
    """One value that is not what it was.

    Attributes:
        row: of `RULES`.
        place: in the row, such as `layers[2].config.units`; may be empty.
        saved, current: the values, or `ABSENT`.
    """

    row: str
    place: str
    saved: Any
    current: Any

    def __str__(self) -> str:
        name = f"{self.row} {self.place}" if self.place else self.row
        return f"{name}: saved {_brief(self.saved)}, now {_brief(self.current)} ({RULES[self.row][1]})"


class OtherRun(ValueError):
    """A checkpoint is of another run than this one; a line for each difference."""


class _Absent:
    def __repr__(self) -> str:
        return "nothing"


ABSENT = _Absent()


def of_fit(
    model: keras.Model,
    strategy: StepStrategy,
    seed: int,
    inputs: Inputs,
    plan: Plan,
    findings: Findings,
    **settings: Any,
) -> Manifest:
    """All rows of a `fit` that is about to begin, those of the Trainer's own settings by name; and the form that they have."""
    data, batches = {"training": of_data(inputs.source.arrays)}, {"steps_per_epoch": plan.steps_per_epoch}
    batches |= inputs.source.describe()
    if inputs.validation is not None:
        validation = inputs.validation
        data["validation"] = of_data((validation.x, validation.y, validation.sample_weight))
        batches["validation"] = plain((validation.batch_size, validation.steps, validation.frequency))
    reader = Reader(_trained(model))
    own = {"strategy": _numbered(reader.read(strategy)), "seed": seed, "batches": batches, "data": data}
    own |= {"initial_epoch": plan.initial_epoch} | settings
    rows = of_model(model, reader) | of_machine() | own | findings.known()
    rows["versions"] |= {name: version(name) for name in sorted(reader.packages - set(rows["versions"]))}
    return rows | {_FORM: {"manifest": 3, "code": sys.implementation.cache_tag}}


def of_model(model: keras.Model, reader: Reader | None = None) -> Manifest:
    """The rows that a compiled and built model decides."""
    reader = Reader(_trained(model)) if reader is None else reader
    config = keras_internals.compile_arguments(model)  # as given: Keras' own way to write it fails for some losses
    compiled = {key: config.get(key) for key in ("loss", "loss_weights", "metrics", "weighted_metrics")}
    names, operations = layer_names(model), first_names(model)
    held = {renumbered(layer.name, names): _numbered(reader.held(layer)) for layer in keras_internals.layers_of(model)}
    return {
        **of_layers(model, reader, lambda value: renamed(renumbered(value, names), operations)),
        "variables": [[renumbered(v.path, names), list(v.shape), str(v.dtype)] for v in model.variables],
        "layers' code": {name: record for name, record in held.items() if record},
        "loss and metrics": _numbered(reader.read(compiled)),
        "optimizer": of_optimizer(model.optimizer, reader),
        # Their names are made of those of the model's.
        "optimizer variables": [[list(v.shape), str(v.dtype)] for v in model.optimizer.variables],
        "learning_rate": learning_rate(model.optimizer),
        "dtypes": {"floatx": keras.config.floatx(), "policy": keras.config.dtype_policy().name},
        "keras.config": {"epsilon": keras.config.epsilon(), "image_data_format": keras.config.image_data_format()},
    }


def _trained(model: keras.Model) -> list[Any]:
    """What training changes, or what has a row of its own."""
    metrics = [variable for metric in model.metrics for variable in metric.variables]
    variables = [*model.variables, *model.optimizer.variables, *metrics]
    scaled = inner_of(model.optimizer)
    inner = getattr(scaled, "optimizers", ())  # of a MultiOptimizer
    return [model.optimizer, scaled, *inner, *keras_internals.layers_of(model), *variables, *(v.value for v in variables)]


def of_traced(model: keras.Model, strategy: StepStrategy) -> Manifest:
    """The rows `OF_TRACED`, as they are now."""
    reader = Reader(_trained(model))
    rows = {"strategy": _numbered(reader.read(strategy)), **of_model(model, reader)}
    return {row: rows[row] for row in OF_TRACED}


def of_data(data: Any) -> Any:
    """The row of data: of arrays, shapes, dtypes and a fingerprint of the bytes.

    Of more than 256 MB the fingerprint is that of blocks spread over them. Of a stream there is nothing to compare but what
    its batches are, which is another row.
    """
    return [
        {"shape": list(leaf.shape), "dtype": tf.as_dtype(leaf.dtype).name, "blake2b": fingerprint(leaf)}
        for part in tf.nest.flatten(data)
        if not isinstance(part, tf.data.Dataset)
        for leaf in tf.nest.flatten(part, expand_composites=True)
        if hasattr(leaf, "shape") and hasattr(leaf, "dtype")
    ]


def differences(saved: Manifest, current: Manifest, rows: Iterable[str] = tuple(RULES)) -> list[Difference]:
    """What is not what it was, row by row."""
    return [difference for row in rows for difference in _compared(row, saved, current)[0]]


def _compared(row: str, saved: Manifest, current: Manifest) -> tuple[list[Difference], dict[str, str]]:
    """The differences in a row; and places that cannot be compared, with the reason."""
    a, b = (_leaves(rows.get(row, ABSENT), row == "model") for rows in (saved, current))
    is_old = _FORM in current and _FORM not in saved
    if _FORM in current and saved.get(_FORM, {}).get("manifest", 1) < 3:
        b = as_in_second_form(b)
    is_other_python = not is_old and saved.get(_FORM, {}).get("code") != current.get(_FORM, {}).get("code")
    hidden = {p.removesuffix(NOT_COMPARED).rstrip("."): why for p, why in (b | a).items() if p.endswith(NOT_COMPARED)}
    found = []
    for place in dict.fromkeys([*a, *b]):
        before, now = a.get(place, ABSENT), b.get(place, ABSENT)
        if any(place == over or place.startswith((f"{over}.", f"{over}[")) or not over for over in hidden):
            continue
        if IN_CHECKPOINTS in (before, now) and ABSENT not in (before, now):
            continue
        if row == "versions" and ABSENT in (before, now):  # other packages are used: other rows say by what
            continue
        if is_old and (_is_name(place) or row in _NEW_FORM):
            if row in _NEW_FORM and before is ABSENT:
                hidden[place.partition("()")[0] + "()" * ("()" in place)] = "not in checkpoints of an older trainlab"
            if before is ABSENT or now is ABSENT or place.endswith("source"):
                continue
            before, now = (str(name).rpartition(".")[2] if _is_name(place) else name for name in (before, now))
        if is_other_python and any(isinstance(value, str) and value.startswith(code.BYTECODE) for value in (before, now)):
            hidden[place.removesuffix(".code")] = "code, which another Python compiled"
        elif before != now and not (before != before and now != now):  # NaN is what it was
            found.append(Difference(row, place, before, now))
    return found, hidden


def refusals(found: Sequence[Difference], override: Collection[str] = ()) -> tuple[list[Difference], list[Difference]]:
    """Splits differences into those that refuse and those that warn; `override` names rows that were changed on purpose."""
    refusing = [d for d in found if RULES[d.row][0] == REFUSE and d.row not in override]
    return refusing, [d for d in found if RULES[d.row][0] == WARN]


def check(path: Path, saved: Manifest, current: Manifest, override: Collection[str]) -> set[str]:
    """Compares what a checkpoint is of with what is about to go on from it, and warns where only the last bits may differ.

    Args:
        path: of the checkpoint.
        saved: its rows. One that an older trainlab wrote holds no code and nothing private: there what both say is compared.
        current: the rows of now; those that only one of the two has are not compared.
        override: names of rows that were changed on purpose.

    Returns:
        Those of them that differ.

    Raises:
        OtherRun: it is another run's.
    """
    saved = {"sum_duplicate_rows": True, "replicas": 1, **with_rates_apart(saved)}  # all that there was before it could be said
    rows = [row for row in RULES if row in saved and row in current]
    if "seed" in saved and _FORM not in saved and current.get("layers' code"):  # of an older trainlab, and whole
        rows.append("layers' code")
    counted = [part["optimizer variables"] for part in (saved, current) if "optimizer variables" in part]
    if "learning_rate" in override and len(counted) == 2 and are_but_for_the_rate(*counted):
        rows.remove("optimizer variables")
    compared = {row: _compared(row, saved, current) for row in rows}
    found = [difference for differing, _ in compared.values() for difference in differing]
    refusing, warning = refusals(found, override)
    if refusing:
        lines = [f"{path} is of another run; nothing was touched. It differs in:"]
        for row in dict.fromkeys(difference.row for difference in refusing):
            of_row = [difference for difference in refusing if difference.row == row]
            lines += [str(difference) for difference in of_row[:_MAX_LINES]]
            lines += [f"{row}: {len(of_row) - _MAX_LINES} more"] if len(of_row) > _MAX_LINES else []
        raise OtherRun("\n  ".join(lines))
    for difference in warning:
        warnings.warn(f"resuming in spite of a difference: {difference}", stacklevel=5)
    unseen: dict[str, list[str]] = {}
    for row, (_, hidden) in compared.items():
        for place, why in hidden.items():
            unseen.setdefault(why, []).append(f"{row} {place}".strip())
    if unseen:
        places = "; ".join(f"{', '.join(places)} ({why})" for why, places in unseen.items())
        warnings.warn(f"resuming; what cannot be compared must be as it was: {places}", stacklevel=5)
    return {difference.row for difference in found if difference.row in override}


def layer_names(model: keras.Model) -> list[str]:
    """The names of the model, its layers and its seed generators, whose numbers Keras counts up from model to model."""
    owners = [part for variable in model.variables for part in variable.path.split("/")[:-1]]
    return list(dict.fromkeys([model.name, *(layer.name for layer in keras_internals.layers_of(model)), *owners]))


def renumbered(value: Any, names: Iterable[str]) -> Any:
    """The same, with the numbers at the ends of layers' names replaced by their ranks among those of one stem.

    So a model built a second time, whose layers Keras calls `dense_2` and `dense_3` and no longer `dense` and `dense_1`,
    looks as the first; and two layers that have changed places do not.

    Example:
        >>> renumbered(["dense_2/kernel", "dense_3/kernel"], ["dense_2", "dense_3"])
        ['dense#0/kernel', 'dense#1/kernel']
        >>> renumbered(["block_2", "block_1"], ["block_2", "block_1"])
        ['block#1', 'block#0']
    """
    stems: dict[str, list[int]] = {}
    parts = {name: _stem(name) for name in names}
    for stem, number in parts.values():
        stems.setdefault(stem, []).append(number)
    ranks = {name: f"{stem}#{sorted(stems[stem]).index(number)}" for name, (stem, number) in parts.items()}
    return renamed(value, ranks)


def _named_in(value: Any) -> list[str]:
    """Every name in a configuration: Keras counts those of metrics and losses up too."""
    if isinstance(value, dict):
        own = [value["name"]] if isinstance(value.get("name"), str) else []
        return own + [name for item in value.values() for name in _named_in(item)]
    return [name for item in value for name in _named_in(item)] if isinstance(value, list) else []


def _numbered(value: Any) -> Any:
    return renumbered(value, _named_in(value))


def _stem(name: str) -> tuple[str, int]:
    match = re.fullmatch(r"(.*?)_(\d+)", name)
    return (match[1], int(match[2])) if match else (name, 0)


def _leaves(value: Any, is_model: bool) -> dict[str, Any]:
    """Every leaf by its place, but for what Keras writes of code: the user's module, the bytes and lines of a lambda."""
    flat = _flat(value)
    if is_model:  # an older trainlab took keys for names of layers, where the two were the same
        flat = {re.sub(r"#\d+(?=[.\[]|$)", "", place): item for place, item in flat.items()}
    lambdas = {place.removesuffix("class_name") for place, name in flat.items() if name == "__lambda__"}
    gone = {place for place in flat if any(place.startswith(f"{start}config.") for start in lambdas)}
    gone |= {p for p, name in flat.items() if f"{p.removesuffix('module')}class_name" in flat and _is_place_of_user(p, name)}
    return {place: item for place, item in flat.items() if place not in gone}


def _is_place_of_user(place: str, value: Any) -> bool:
    return place.endswith("module") and (value is None or not code.is_installed_module(str(value)))


def _is_name(place: str) -> bool:
    return place.rpartition(".")[2] in ("class", "function")


def _flat(value: Any, place: str = "") -> dict[str, Any]:
    """Every leaf of nested data by its place."""
    if isinstance(value, dict) and value:
        return {k: v for key, item in value.items() for k, v in _flat(item, f"{place}.{key}" if place else str(key)).items()}
    if isinstance(value, list) and value and not all(_is_leaf(item) for item in value):
        return {k: v for i, item in enumerate(value) for k, v in _flat(item, f"{place}[{i}]").items()}
    return {place: value}


def _is_leaf(value: Any) -> bool:
    return not isinstance(value, (dict, list))


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
