"""Which names a config may use.

Names are those of Python: `trainlab.Heun`, `keras.optimizers.SGD`, `trainlab.models.mlp`; the end of a name is enough where
only one thing has it (`Heun`, `mlp`). `import my_module` makes everything in a module of your own available as
`my_module.Name`, with no decorators.
"""

import difflib
import inspect
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any

import gin
import keras

from trainlab import datasets, models, strategies
from trainlab.cli import gin_internals
from trainlab.cli.errors import one_line
from trainlab.cli.settings import Settings


def _register_names() -> None:
    """Makes the package's and Keras' own names known to gin, under the names they have in Python."""
    gin.external_configurable(Settings, name="run", module="trainlab")
    for name, item in vars(strategies).items():
        if inspect.isclass(item) and issubclass(item, strategies.StepStrategy) and item is not strategies.StepStrategy:
            gin.external_configurable(item, name=name, module="trainlab")
    for module in (datasets, models):
        for name, item in vars(module).items():
            if inspect.isfunction(item) and item.__module__ == module.__name__ and not name.startswith("_"):
                gin.external_configurable(item, name=name, module=module.__name__)
    for path, module, base in (
        ("keras.optimizers", keras.optimizers, keras.Optimizer),
        ("keras.optimizers.schedules", keras.optimizers.schedules, keras.optimizers.schedules.LearningRateSchedule),
        ("keras.losses", keras.losses, keras.Loss),
    ):
        for name, item in vars(module).items():
            if inspect.isclass(item) and issubclass(item, base) and item is not base:
                gin.external_configurable(item, name=name, module=path)


_register_names()


class NotKnown(Exception):
    """A name that stands for nothing, or for several things; where it stands is not known here."""


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
    matches = gin_internals.matching(name)
    if len(matches) > 1:
        raise NotKnown(f"'{name}' is ambiguous: write {' or '.join(sorted(matches))}")
    if matches:
        return matches[0]
    for path, item in _imported(name, imports):
        module, _, last = path.rpartition(".")
        try:
            gin.external_configurable(item, name=last, module=module)
        except Exception as error:  # an Enum, say, cannot be subclassed, which is what gin does to classes
            raise NotKnown(f"'{name}' cannot be used in a config: {one_line(error)}") from error
        return path
    raise NotKnown(f"unknown name '{name}'{_hint(name, imports)}")


def short_name(selector: str) -> str:
    """A full name as people write it: ours by its end, where that is enough, others as in Python.

    Args:
        selector: The full name.

    Example:
        >>> short_name("trainlab.models.mlp"), short_name("keras.optimizers.Adam")
        ('mlp', 'keras.optimizers.Adam')
    """
    return gin_internals.shortest(selector) if selector.startswith("trainlab.") else selector


def _imported(name: str, imports: Mapping[str, ModuleType]) -> Iterable[tuple[str, Any]]:
    for bound, module in imports.items():
        # `own.Sam`, or just `Sam`: the short form that gin itself writes into the config of a run.
        inner = name.removeprefix(f"{bound}.")
        item: Any = module
        for part in inner.split("."):
            item = getattr(item, part, None)
        if callable(item):
            yield f"{bound}.{inner}", item


def _hint(name: str, imports: Mapping[str, ModuleType]) -> str:
    known = gin_internals.registered()
    known += [f"{bound}.{item}" for bound, module in imports.items() for item in vars(module)]
    ends = [".".join(full.split(".")[start:]) for full in known for start in range(full.count(".") + 1)]
    spelled = {end.lower(): end for end in ends}  # sgd is a likely way to write SGD
    close = difflib.get_close_matches(name.lower(), spelled, n=1, cutoff=0.7)
    if close:
        return f"; did you mean {spelled[close[0]]}?"
    return "; a name of your own module needs `import my_module` above it, and then my_module.Name"
