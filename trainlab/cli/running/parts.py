"""What a run trains on, what it validates on, and what it is tested on, at the end and once."""

import dataclasses
from typing import Any

from trainlab.cli.configs.settings import Settings
from trainlab.datasets import Data

_SEED = 0  # of what is held out: of its own, so that runs with other seeds are judged by the same examples


def with_parts(settings: Settings) -> tuple[Settings, str | None]:
    """The settings with data that have the part to validate on that they ask for.

    Args:
        settings: Of the run.

    Returns:
        The settings, and why there is no validation, where there is none and somebody might expect one.

    Raises:
        ValueError: There is nothing to hold out, or nothing left.
    """
    data, note = settings.data, None
    if settings.overfit is not None:
        data = _first(data, settings.overfit, settings.batch_size)
    elif settings.validation_data is not None:
        data = dataclasses.replace(data, validation=_given(settings.validation_data, data))
    elif data.validation is None and settings.validation_split and data.is_arrays:
        data = _split(data, settings.validation_split)
    elif data.validation is None and settings.validation_split:
        note = "nothing, since a data set of batches cannot be split: give run.validation_data"
    return dataclasses.replace(settings, data=data), note


def unpacked(part: Any) -> tuple[Any, Any, Any]:
    """A part of a `Data` as `fit` and `evaluate` take it: x, y, sample_weight; a data set as x alone."""
    if hasattr(part, "element_spec"):
        return part, None, None
    x, y, *weight = part
    return x, y, weight[0] if weight else None


def _given(value: Any, data: Data) -> Any:
    if isinstance(value, str):  # 'test', as `Settings` has checked
        if data.test is None:
            raise ValueError("run.validation_data = 'test': the data have no test part")
        return data.test
    return value.train if isinstance(value, Data) else value


def _split(data: Data, share: float) -> Data:
    if len(data.lengths) != 1 or data.lengths == {0}:  # `fit` says what is wrong
        return data
    [num_examples] = data.lengths
    number = max(1, round(num_examples * share))
    if number >= num_examples:
        raise ValueError(
            f"run.validation_split = {share}: holds out {number} of {num_examples:,} example{'s' * (num_examples > 1)}, which "
            "leaves none to train on: write run.validation_split = 0, or give run.validation_data"
        )
    return data.split_off(number / num_examples, seed=_SEED)


def _first(data: Data, num_batches: int, batch_size: int) -> Data:
    """The first batches alone, to train and to validate on."""
    if not data.is_arrays:
        part = data.train.take(num_batches)
    else:
        part = data.first(num_batches * batch_size)
    return dataclasses.replace(data, train=part, validation=part)
