"""Data of other libraries: TensorFlow Datasets, Hugging Face's datasets on a disk, Grain."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trainlab.datasets.checks import checked_seed, library, num_drawn
from trainlab.datasets.data import Data
from trainlab.datasets.structures import Batches

PathLike = str | os.PathLike[str]


def tfds(
    name: str,
    train: str = "train",
    test: str | None = "test",
    x: str | Sequence[str] | None = None,
    y: str | None = None,
    data_dir: PathLike | None = None,
    download: bool = True,
    task: str | None = None,
) -> Data:
    """A data set of TensorFlow Datasets (`pip install 'trainlab[tfds]'`), read into memory.

    For one that does not fit there, hand `tensorflow_datasets.data_source(name)` to Grain, and that to `grain`.

    Args:
        name: As `tensorflow_datasets.load` takes it, for example `"mnist"` or `"titanic:4.0.0"`.
        train, test: The splits, for example `"train[:80%]"`; no test part for None.
        x: The feature that is the input, or a list of several, which become a dictionary; None for the one that the data set
            says.
        y: The feature that is learned; None for the one that the data set says.
        data_dir: Where it is kept; None for TensorFlow Datasets' own folder.
        download: Whether it may be downloaded, the first time.
        task: As in `Data`.

    Returns:
        Arrays as they are stored, in the order of the files; images `(n, height, width, channels)` of bytes as float32 in [0, 1],
        `y` of integers int32, where that holds them.

    Raises:
        ModuleNotFoundError: `tensorflow-datasets` is not installed.
        ValueError: It cannot be loaded, or is no such data set.

    Example:
        >>> data = tfds("mnist")  # doctest: +SKIP
    """
    builders = library("tensorflow_datasets", "tfds", "tfds")
    splits = [train] if test is None else [train, test]
    try:
        builder = builders.builder(name, data_dir=None if data_dir is None else str(Path(data_dir).expanduser()))
        if download:
            builder.download_and_prepare()
        features, supervised = builder.info.features, builder.info.supervised_keys
        loaded = [builders.as_numpy(builder.as_dataset(split=split, batch_size=-1, shuffle_files=False)) for split in splits]
    except Exception as error:  # it has many, and those of the network
        raise ValueError(f"tfds({name!r}): cannot be loaded ({_first_line(error)})") from error
    if (x is None or y is None) and supervised is None:
        raise ValueError(f"tfds({name!r}): says not what is learned: give x= and y=; its features are {', '.join(features)}")
    x, y = x if x is not None else supervised[0], y if y is not None else supervised[1]
    classes = getattr(features[y], "names", None) if y in features else None
    return _data(builder.name, loaded, x, y, classes, task)


def hugging_face(
    path: PathLike,
    x: str | Sequence[str],
    y: str,
    train: str = "train",
    test: str | None = "test",
    test_fraction: float | None = 0.2,
    task: str | None = None,
    seed: int = 0,
) -> Data:
    """A data set of Hugging Face's `datasets` on the disk (`pip install 'trainlab[hugging-face]'`), read into memory.

    Args:
        path: The folder that `save_to_disk` has written; a leading `~` is expanded.
        x: The column that is the input, or a list of several, which become a dictionary.
        y: The column that is learned.
        train, test: The splits, where it has splits; no test part where it has not this one, or for None.
        test_fraction: Where it has no splits, the fraction of the rows that form the test part, in (0, 1); None for no test part.
        task: As in `Data`.
        seed: Which rows are drawn for the test part.

    Returns:
        Arrays as they are stored, in their order; images `(n, height, width, channels)` of bytes as float32 in [0, 1], `y` of
        integers int32, where that holds them.

    Raises:
        FileNotFoundError: There is no such folder.
        ModuleNotFoundError: `datasets` is not installed.
        ValueError: It cannot be loaded, a column is missing, its examples differ in shape, or some have no value.

    Example:
        >>> data = hugging_face("my_data", x="image", y="label")  # doctest: +SKIP
    """
    reading = library("datasets", "hugging_face", "hugging-face")
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; `save_to_disk` of a data set writes one")
    try:
        stored = reading.load_from_disk(str(folder))
    except Exception as error:
        raise ValueError(f"{folder}: cannot be loaded ({_first_line(error)})") from error
    has_splits = isinstance(stored, reading.DatasetDict)
    if has_splits and train not in stored:
        raise ValueError(f"{folder}: has no split {train!r}; it has {', '.join(stored)}")
    first = stored[train] if has_splits else stored
    parts = [first, *([stored[test]] if has_splits and test in stored else [])]
    names = [x] if isinstance(x, str) else list(x)
    if unknown := [name for name in [*names, y] if name not in first.features]:
        raise ValueError(f"{folder}: has no column {unknown[0]!r}; it has {', '.join(first.features)}")
    loaded = [{name: _column(folder, part, name) for name in dict.fromkeys([*names, y])} for part in parts]
    if not has_splits and test_fraction is not None:
        number = num_drawn("test_fraction", test_fraction, len(first), "test")
        is_test = np.zeros(len(first), bool)
        is_test[np.random.default_rng(checked_seed(seed)).permutation(len(first))[:number]] = True
        loaded = [{name: values[which] for name, values in loaded[0].items()} for which in (~is_test, is_test)]
    return _data(folder.name, loaded, x, y, getattr(first.features[y], "names", None), task)


def grain(
    train: Any,
    test: Any = None,
    validation: Any = None,
    num_classes: int | None = None,
    task: str | None = None,
    name: str = "grain",
) -> Data:
    """Batches of Grain (`pip install 'trainlab[grain]'`): a `DataLoader`, `MapDataset` or `IterDataset` of batches `(x, y)`.

    Each epoch is a new iterator, whose own state a checkpoint holds: a run that was stopped goes on without reading again. A
    loader that repeats itself for ever has no epochs: give `fit` the `steps_per_epoch`.

    Args:
        train: The batches to train on, or a function that makes them.
        test, validation: The same of the other parts; None for none.
        num_classes: The number of classes, or of outputs; classes must have it.
        task: As in `Data`.
        name: The name of the data.

    Returns:
        Data of these batches.

    Raises:
        ModuleNotFoundError: `grain` is not installed.
        TypeError: A part is nothing of Grain's.
        ValueError: It has no batches.

    Example:
        >>> import grain as pygrain
        >>> batches = pygrain.MapDataset.range(6).map(lambda i: (np.float32([i, 1]), np.float32(2 * i))).batch(2)
        >>> data = grain(batches)
        >>> data.input_shape, data.task
        ((2,), 'regression')
    """
    library("grain", "grain", "grain")
    parts = {"train": train, "test": test, "validation": validation}
    given = {part: _grains(part, value) for part, value in parts.items() if value is not None or part == "train"}
    return Data(name, given["train"], given.get("test"), num_classes, validation=given.get("validation"), task=task)


def _grains(part: str, value: Any) -> Batches:
    if callable(value) and not hasattr(value, "__iter__"):
        value = value()
    if not Batches.are_in(value):
        raise TypeError(
            f"grain: {part} must be a grain.DataLoader, MapDataset or IterDataset, or a function that makes one, "
            f"not a {type(value).__name__}"
        )
    try:
        return Batches(value)
    except TypeError as error:
        raise TypeError(f"grain: {part}: {error}") from None
    except ValueError as error:
        raise ValueError(f"grain: {part} is {error}") from None


def _data(
    name: str, loaded: Sequence[Mapping[str, Any]], x: Any, y: str, classes: Sequence[str] | None, task: str | None
) -> Data:
    parts = []
    for arrays in loaded:
        if unknown := [wanted for wanted in ([x] if isinstance(x, str) else [*x]) + [y] if wanted not in arrays]:
            raise ValueError(f"{name}: has no feature {unknown[0]!r}; it has {', '.join(arrays)}")
        inputs = _input(arrays[x]) if isinstance(x, str) else {wanted: _input(arrays[wanted]) for wanted in x}
        labels = np.asarray(arrays[y])
        parts.append((inputs, _labels(labels)))
    vocabularies = {} if classes is None else {"y": tuple(map(str, classes))}
    number = len(classes) if classes is not None else None
    return Data(name, parts[0], parts[1] if len(parts) > 1 else None, number, task=task, vocabularies=vocabularies)


def _input(array: Any) -> Any:
    array = np.asarray(array)
    if array.dtype == np.uint8 and array.ndim in (3, 4):  # images, gray ones with no axis of channels
        array = array.astype(np.float32) / np.float32(255)
        return array[..., None] if array.ndim == 3 else array
    return array


def _labels(labels: np.ndarray) -> np.ndarray:
    """Integers as int32 where that holds them: others would come round to classes that they are not."""
    limits = np.iinfo(np.int32)
    fits = labels.dtype.kind in "iu" and (not labels.size or (labels.min() >= limits.min and labels.max() <= limits.max))
    return labels.astype(np.int32) if fits else labels


def _column(where: Path, part: Any, name: str) -> np.ndarray:
    """A column whole. Numbers have the dtype that is stored: the library's own arrays of them are int64 and float32."""
    arrow = library("pyarrow", "hugging_face", "hugging-face")

    stored = part.with_format("arrow", columns=[name])[:].column(name).combine_chunks()
    shape, is_whole = [len(stored)], True
    while isinstance(stored, (arrow.ExtensionArray, arrow.ListArray, arrow.LargeListArray, arrow.FixedSizeListArray)):
        if isinstance(stored, arrow.ExtensionArray):
            stored = stored.storage
            continue
        is_whole = is_whole and not stored.null_count
        lengths = stored.value_lengths().drop_null().unique().to_pylist() or [0]
        if len(lengths) > 1:
            raise ValueError(f"{where}: the examples of column {name!r} differ in shape: pad or crop them before they are saved")
        shape.append(lengths[0])
        stored = stored.flatten()
    is_float = arrow.types.is_floating(stored.type)
    if is_float or arrow.types.is_integer(stored.type) or arrow.types.is_boolean(stored.type):
        if not is_whole or (stored.null_count and not is_float):  # a float that is missing is NaN
            raise ValueError(f"{where}: some examples of column {name!r} have no value: fill or drop them before they are saved")
        return stored.to_numpy(zero_copy_only=False).reshape(shape)
    array = np.asarray(part.with_format("numpy", columns=[name])[:][name])
    if array.dtype.kind == "O":
        raise ValueError(f"{where}: the examples of column {name!r} differ in shape: pad or crop them before they are saved")
    return array


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
