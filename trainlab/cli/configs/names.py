"""Which names a config may use.

Names are those of Python: `trainlab.Heun`, `keras.optimizers.SGD`, `trainlab.models.mlp`; the end of a name is enough where
only one thing has it (`Heun`, `mlp`). `import my_module` makes everything in a module of your own available as
`my_module.Name`, with no decorators.
"""

import difflib
import functools
import inspect
from collections.abc import Collection, Iterable, Mapping, Sequence
from types import ModuleType
from typing import Any

import gin

from trainlab.cli.configs import gin_internals, outline
from trainlab.cli.configs.errors import one_line
from trainlab.cli.configs.settings import Comparing, Settings, Sweeping

RUN, COMPARE, SWEEP = "trainlab.run", "trainlab.compare", "trainlab.sweep"
SETTINGS = {RUN: Settings, COMPARE: Comparing, SWEEP: Sweeping}
for _full, _kind in SETTINGS.items():
    gin.external_configurable(_kind, name=_full.rpartition(".")[2], module="trainlab")


@functools.cache
def register() -> None:
    """Makes the package's and Keras' own names known to gin, under the names they have in Python; this imports TensorFlow."""
    import keras

    from trainlab import datasets, models, strategies

    for name, item in vars(strategies).items():
        if inspect.isclass(item) and issubclass(item, strategies.StepStrategy) and item is not strategies.StepStrategy:
            gin.external_configurable(item, name=name, module="trainlab")
    for module in (datasets, models):
        for name, item in vars(module).items():
            if inspect.isfunction(item) and item.__module__.startswith(f"{module.__name__}."):
                gin.external_configurable(item, name=name, module=module.__name__)
    for path, module, base in (
        ("keras.optimizers", keras.optimizers, keras.Optimizer),
        ("keras.optimizers.schedules", keras.optimizers.schedules, keras.optimizers.schedules.LearningRateSchedule),
        ("keras.losses", keras.losses, keras.Loss),
    ):
        for name, item in vars(module).items():
            if inspect.isclass(item) and issubclass(item, base) and item is not base:
                gin.external_configurable(item, name=name, module=path)


class NotKnown(Exception):
    """A name that stands for nothing, or for several things; where it stands is not known here.

    Args:
        name: As it stands in a config.
        message: What is wrong.
        known: What there is instead; empty where something like it was found.
    """

    def __init__(self, name: str, message: str, known: Collection[str] = ()):
        self.name, self.message, self.known = name, message, known
        super().__init__(self.explain())

    def explain(self, wanted: str = "") -> str:
        """The message, and what there is.

        Args:
            wanted: The parameter that the name was given to, such as `strategy`, if it is known.
        """
        if not self.known:
            return self.message
        return f"{self.message}; {_list_of(self.known, wanted)}; a name of your own module needs `import my_module` above it"


def full_name(name: str, imports: Mapping[str, ModuleType]) -> str:
    """The full name of what `name` stands for, registered with gin on first use if it comes from an import.

    Args:
        name: As it stands in a config.
        imports: The modules that the config imported so far, by the name they go under.

    Returns:
        The name under which gin has it.

    Raises:
        NotKnown: It stands for nothing, for several things, or for something that gin cannot take.

    Example:
        >>> full_name("Heun", {})
        'trainlab.Heun'
    """
    register()
    matches = _preferred(gin_internals.matching(name))
    if len(matches) > 1:
        raise NotKnown(name, f"'{name}' is ambiguous: write {' or '.join(sorted(matches))}")
    if matches:
        return matches[0]
    for path, item in (*_of_keras(name), *_imported(name, imports)):
        module, _, last = path.rpartition(".")
        try:
            gin.external_configurable(item, name=last, module=module)
        except Exception as error:  # an Enum, say, cannot be subclassed, which is what gin does to classes
            raise NotKnown(name, f"'{name}' cannot be used in a config: {one_line(error)}") from error
        return path
    own = [f"{bound}.{item}" for bound, module in imports.items() for item in vars(module)]
    raise _unknown(name, {*outline.places(), *gin_internals.registered()}, own)


def outlined(name: str) -> str:
    """The same before anything is imported: by what can be read off the sources.

    Args:
        name: As it stands in a config.

    Returns:
        The full name; the name itself where the sources cannot be read, or where it stands for several things.

    Raises:
        NotKnown: It stands for nothing.

    Example:
        >>> outlined("Heun"), outlined("Adam")
        ('trainlab.Heun', 'keras.optimizers.Adam')
    """
    known = {*outline.places(), *gin_internals.registered()}
    matches = _preferred([full for full in known if f".{full}".endswith(f".{name}")])
    if len(matches) == 1:
        return matches[0]
    if not outline.places() or matches:
        return name
    raise _unknown(name, sorted(known), [])


def short_name(selector: str) -> str:
    """A full name as people write it: ours by its end, where that is enough, others as in Python.

    Args:
        selector: The full name.

    Example:
        >>> short_name("trainlab.models.mlp"), short_name("keras.optimizers.Adam")
        ('mlp', 'keras.optimizers.Adam')
    """
    if not selector.startswith("trainlab."):
        return selector
    known = {*outline.places(), *gin_internals.registered(), selector}
    ends = (".".join(selector.split(".")[start:]) for start in range(selector.count("."), -1, -1))
    return next(end for end in ends if sum(f".{full}".endswith(f".{end}") for full in known) == 1)


def _preferred(names: Sequence[str]) -> Sequence[str]:
    """Of a loss and a metric of one name the loss: a metric is then written `keras.metrics.NAME`."""
    return [name for name in names if not name.startswith("keras.metrics.")] or names


def _of_keras(name: str) -> Iterable[tuple[str, Any]]:
    """What a name stands for among Keras' callbacks and metrics, which gin comes to know only as they are used.

    So a loss keeps its short name in the config of a run, though there is a metric of that name.
    """
    import keras

    *_, last = name.split(".")
    for path, module, base in (
        ("keras.callbacks", keras.callbacks, keras.callbacks.Callback),
        ("keras.metrics", keras.metrics, keras.Metric),
    ):
        item = getattr(module, last, None)
        if f".{path}.{last}".endswith(f".{name}") and inspect.isclass(item) and issubclass(item, base) and item is not base:
            yield f"{path}.{last}", item


def _imported(name: str, imports: Mapping[str, ModuleType]) -> Iterable[tuple[str, Any]]:
    for bound, module in imports.items():
        # `own.Sam`, or just `Sam`: the short form that gin itself writes into the config of a run.
        inner = name.removeprefix(f"{bound}.")
        item: Any = module
        for part in inner.split("."):
            item = getattr(item, part, None)
        if callable(item):
            yield f"{bound}.{inner}", item


def _unknown(name: str, known: Collection[str], own: Collection[str]) -> NotKnown:
    ends = [".".join(full.split(".")[start:]) for full in (*known, *own) for start in range(full.count(".") + 1)]
    spelled = {end.lower(): end for end in ends}  # sgd is a likely way to write SGD
    close = difflib.get_close_matches(name.lower(), spelled, n=1, cutoff=0.7)
    if close:
        return NotKnown(name, f"unknown name '{name}'; did you mean {spelled[close[0]]}?")
    return NotKnown(name, f"unknown name '{name}'", known)


_KINDS = {  # what there is of a kind, by what its full names begin with
    "strategies": "trainlab",
    "data sets": "trainlab.datasets",
    "models": "trainlab.models",
    "optimizers": "keras.optimizers",
    "losses": "keras.losses",
    "schedules": "keras.optimizers.schedules",
    "callbacks": "keras.callbacks",
    "metrics": "keras.metrics",
}
_WANTED = {
    "strategy": "strategies",
    "inner": "strategies",
    "data": "data sets",
    "model": "models",
    "optimizer": "optimizers",
    "inner_optimizer": "optimizers",
    "loss": "losses",
    "learning_rate": "schedules",
    "callbacks": "callbacks",
    "metrics": "metrics",
}


def _list_of(known: Collection[str], wanted: str) -> str:
    def names(kind: str) -> str:
        found = sorted(full for full in known if full.rpartition(".")[0] == _KINDS[kind] and full not in SETTINGS)
        return ", ".join(map(short_name, found) if kind in ("strategies", "data sets", "models") else (_last(f) for f in found))

    if kind := _WANTED.get(wanted):
        return f"the {kind} are {names(kind)}"
    ours = "; ".join(f"the {kind} are {names(kind)}" for kind in ("strategies", "data sets", "models"))
    theirs = "keras.optimizers, keras.optimizers.schedules, keras.losses, keras.metrics and keras.callbacks"
    return f"{ours}; others are the classes of {theirs}"


def _last(name: str) -> str:
    return name.rpartition(".")[2]
