"""What the run is judged by, told to those of its callbacks that judge it and were told nothing else."""

from collections.abc import Sequence

import gin

from trainlab.cli.configs import gin_internals
from trainlab.cli.configs.config import Binding, literal
from trainlab.cli.configs.names import RUN


def bind_monitor(bindings: Sequence[Binding]) -> dict[tuple[str, str, str], Binding]:
    """Binds `run.monitor` to the parameter `monitor` of `EarlyStopping` and its like in `run.callbacks`, unless a config does.

    With `('max', NAME)` their `mode` too.

    Args:
        bindings: All that are in force.

    Returns:
        The new bindings, by scope, full name and parameter; gin knows them already.
    """
    ours = {binding.argument: binding for binding in bindings if (binding.scope, binding.selector) == ("", RUN)}
    if "monitor" not in ours or "callbacks" not in ours:
        return {}
    monitor = literal(ours["monitor"], bindings)
    mode, name = monitor if isinstance(monitor, (tuple, list)) and len(monitor) == 2 else (None, monitor)
    if not isinstance(name, str):  # `Settings` says what it must be
        return {}
    where = f"run.monitor, {ours['monitor'].where}"
    found = {}
    for scope, selector, _ in gin_internals.references(literal(ours["callbacks"], bindings)):
        for argument, value in (("monitor", name), ("mode", mode)):
            if value is None or not _judges(selector) or _is_bound(bindings, scope, selector, argument):
                continue
            gin.bind_parameter((scope, selector, argument), value)
            found[scope, selector, argument] = Binding(scope, selector, argument, value, where, from_set=False)
    return found


def _judges(selector: str) -> bool:
    import keras  # here, not above: what is known without it is said without it

    kind, known = gin_internals.original(selector), keras.callbacks
    return isinstance(kind, type) and issubclass(kind, (known.EarlyStopping, known.ReduceLROnPlateau, known.ModelCheckpoint))


def _is_bound(bindings: Sequence[Binding], scope: str, selector: str, argument: str) -> bool:
    """Whether a config says it, for this scope or for one round it; of a mode, whether it names its own monitor."""
    said = (argument, "monitor")
    return any(
        other.selector == selector and other.argument in said and f"{scope}/".startswith(f"{other.scope}/" if other.scope else "")
        for other in bindings
    )
