"""How a model is built, as plain data: what Keras writes of it, and the settings of those layers that Keras leaves out."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import keras

from trainlab.loop import code
from trainlab.objective import keras_internals
from trainlab.runs.manifest.optimizers import config_of
from trainlab.runs.manifest.plain import NOT_COMPARED, Reader

# Of a layer inside another: for what data, and with what, it was made; they need not be the same in every process.
_NO_SETTINGS = ("build_config", "compile_config")


def of_layers(model: keras.Model, reader: Reader, rename: Callable[[Any], Any]) -> dict[str, Any]:
    """The rows "model" and "inner layers".

    Keras writes the layers of a graph of layers, each as it is now. Of a subclassed model, and of a layer of the user's, it
    writes what its constructor was given: what the layers inside are set to, and whether they are frozen, is the second row.

    Args:
        model: built.
        reader: of its settings.
        rename: replaces the names that Keras counts up from model to model.
    """
    written = _written(model, reader)
    seen = {id(layer) for layer in _seen(model, written)}
    inner: dict[str, Any] = {}
    for layer in keras_internals.layers_of(model, include_self=False):
        if settings := _settings(layer, reader, is_seen=id(layer) in seen):
            name = place = rename(layer.name)
            number = 1
            while place in inner:  # two layers inside others may have one name
                number += 1
                place = f"{name} ({number})"
            inner[place] = rename(reader.read(settings))
    return {"model": rename(reader.read(written)), "inner layers": inner}


def _written(model: keras.Model, reader: Reader) -> dict[str, Any]:
    own = {"class": reader.label(type(model))}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return keras.saving.serialize_keras_object(model)["config"] | own
        except Exception:  # a subclassed model need not say how it is built
            layers = keras_internals.layers_of(model, include_self=False)
    is_graph = hasattr(model, "operations") and not isinstance(model, keras.Sequential)
    unseen = {"connections": {NOT_COMPARED: "Keras cannot write them"}} if is_graph else {}
    listed = [{"class": reader.label(type(layer)), "name": layer.name, **config_of(layer)} for layer in layers]
    return own | {"layers": listed} | unseen


def _seen(layer: keras.Layer, config: Any) -> Iterator[keras.Layer]:
    """The layers whose own configuration stands in this one."""
    listed = config.get("layers") if isinstance(config, dict) else None
    if not isinstance(listed, list):
        return
    if isinstance(layer, keras.Model) and all(isinstance(entry, dict) and "config" not in entry for entry in listed):
        yield from keras_internals.layers_of(layer, include_self=False)  # as `_written` lists them itself
        return
    inside = getattr(layer, "layers", ())
    children = {child.name: child for child in inside if isinstance(child, keras.Layer)} if isinstance(inside, list) else {}
    for entry in listed:
        inner = entry.get("config") if isinstance(entry, dict) else None
        if isinstance(inner, dict) and (child := children.get(inner.get("name", ""))) is not None:
            yield child
            yield from _seen(child, inner)


def _settings(layer: keras.Layer, reader: Reader, is_seen: bool) -> dict[str, Any]:
    """What no other row says of a layer; those of a class of the user's are in "layers' code", with their `get_config`."""
    if isinstance(layer, keras.layers.InputLayer):  # some layers make one of the data that come first
        return {}
    if code.is_installed(type(layer)):
        return {} if is_seen else {"class": reader.label(type(layer)), **_without_building(config_of(layer))}
    return {} if "trainable" in config_of(layer) else {"trainable": layer.trainable}


def _without_building(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_building(item) for key, item in value.items() if key not in _NO_SETTINGS}
    return [_without_building(item) for item in value] if isinstance(value, (list, tuple)) else value
