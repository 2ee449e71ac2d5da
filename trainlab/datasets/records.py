"""Data from TFRecord files, read as training goes on."""

from __future__ import annotations

import glob
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trainlab.datasets.checks import checked_count, checked_seed
from trainlab.datasets.data import Data

_STORED = ("float32", "int64", "string")  # what a tf.train.Example can hold
_RAW = ("uint8", "int8", "uint16", "int16", "int32", "float16", "float64", "bool")


def tfrecord(
    pattern: str,
    features: Mapping[str, Any],
    x: str | Sequence[str],
    y: str,
    num_classes: int | None = None,
    batch_size: int = 32,
    test: str | None = None,
    shuffle_buffer: int = 10_000,
    compression: str = "",
    task: str | None = None,
    seed: int = 0,
) -> Data:
    """TFRecord files of `tf.train.Example`s.

    They are read again in each epoch, a batch at a time, by a pipeline that a run goes on with exactly.

    Args:
        pattern: Of the files, for example `"~/data/train-*.tfrecord"`, on a file system of this machine (no `gs://`); they are
            read in the order of their names.
        features: By its name what each feature is, `(shape, dtype)`: `"float32"`, `"int64"` and `"string"` as they are stored,
            `"image"` for an encoded one (JPEG, PNG, GIF, BMP), which becomes float32 in [0, 1], and other dtypes (`"uint8"`) for
            the bytes of an array. Or what `tf.io.parse_example` takes.
        x: The feature that is the input, or a list of several, which become a dictionary.
        y: The one that is learned.
        num_classes: The number of classes, or of outputs; classes must have it.
        batch_size: Examples in a batch; that of `fit` and of `run` does not count.
        test: The pattern of the files with the test part; None for none.
        shuffle_buffer: Each epoch has its own order among so many examples that come next; 0 for that of the files.
        compression: `"GZIP"`, `"ZLIB"`, or `""` for none.
        task: As in `Data`.
        seed: Of the orders.

    Returns:
        Data sets of batches of `x` and `y`, named after the first file.

    Raises:
        FileNotFoundError: No file is called so.
        ValueError: There is no record, the first is none of such features, or an argument breaks its rule.

    Example:
        >>> import tensorflow as tf
        >>> def feature(values):
        ...     return tf.train.Feature(float_list=tf.train.FloatList(value=values))
        >>> with tf.io.TFRecordWriter("line.tfrecord") as file:
        ...     for i in range(6):
        ...         values = {"x": feature([i, 1]), "y": feature([2 * i])}
        ...         file.write(tf.train.Example(features=tf.train.Features(feature=values)).SerializeToString())
        >>> data = tfrecord("line.tfrecord", {"x": ([2], "float32"), "y": ([], "float32")}, x="x", y="y")
        >>> data.input_shape, data.task
        ((2,), 'regression')
    """
    if not isinstance(features, Mapping):
        raise ValueError(
            f"features={features!r}: must be a dictionary, as in {{'x': ([8, 8, 1], 'float32'), 'y': ([], 'int64')}}"
        )
    names = [x] if isinstance(x, str) else list(x)
    for what, asked in (("x", names), ("y", [y])):
        if unknown := [name for name in asked if name not in features]:
            raise ValueError(f"{what}: there is no feature {unknown[0]!r}; there are {', '.join(features)}")
    specs = {name: _spec(name, features[name]) for name in {*names, y}}
    batch_size, seed = checked_count("batch_size", batch_size), checked_seed(seed)
    shuffle_buffer = checked_count("shuffle_buffer", shuffle_buffer, 0)
    if compression not in ("", "GZIP", "ZLIB"):
        raise ValueError(f'compression={compression!r}: must be "GZIP", "ZLIB", or "" for none')
    files = [_files(wanted) for wanted in ([pattern] if test is None else [pattern, test])]
    structure = names[0] if isinstance(x, str) else names
    parts = [
        _batches(paths, specs, structure, y, batch_size, shuffle_buffer if number == 0 else 0, compression, seed)
        for number, paths in enumerate(files)
    ]
    for paths in files:  # in a pipeline of its own: a shuffle that was begun has another order the next time
        _check_first(paths[0], _batches(paths, specs, structure, y, 1, 0, compression, seed))
    return Data(Path(files[0][0]).stem, parts[0], parts[1] if test is not None else None, num_classes=num_classes, task=task)


def _files(pattern: str) -> list[str]:
    files = sorted(glob.glob(str(Path(pattern).expanduser())))
    if not files:
        raise FileNotFoundError(f"{pattern}: no file is called so")
    return files


def _spec(name: str, feature: Any) -> tuple[Any, str, tuple[int, ...]]:
    """What parses a feature, and what it then becomes: "" for nothing else."""
    import tensorflow as tf

    if hasattr(feature, "_fields"):  # TensorFlow's are named tuples
        return feature, "", ()
    is_pair = isinstance(feature, (tuple, list)) and len(feature) == 2 and isinstance(feature[0], (tuple, list))
    if not is_pair or feature[1] not in (*_STORED, *_RAW, "image"):
        known = ", ".join((*_STORED, "image", *_RAW))
        raise ValueError(
            f"features[{name!r}]={feature!r}: must be (shape, dtype), as in ([8, 8, 1], 'float32'); dtypes are {known}"
        )
    shape, dtype = tuple(feature[0]), str(feature[1])
    if dtype == "image" and len(shape) != 3:
        raise ValueError(f"features[{name!r}]: an image has the shape (height, width, channels), not {shape}")
    if dtype in _STORED:
        return tf.io.FixedLenFeature(shape, dtype), "", shape
    return tf.io.FixedLenFeature((), "string"), dtype, shape


def _batches(
    files: Sequence[str],
    specs: Mapping[str, tuple[Any, str, tuple[int, ...]]],
    x: Any,
    y: str,
    batch_size: int,
    shuffle_buffer: int,
    compression: str,
    seed: int,
) -> Any:
    import tensorflow as tf

    def parse(records: Any) -> Any:
        found = tf.io.parse_example(records, {name: spec for name, (spec, _, _) in specs.items()})
        for name, (_, dtype, shape) in specs.items():
            if dtype:
                found[name] = _decoded(found[name], dtype, shape)
        return (found[x] if isinstance(x, str) else {name: found[name] for name in x}), found[y]

    records = tf.data.TFRecordDataset(list(files), compression_type=compression)
    if shuffle_buffer:
        records = records.shuffle(shuffle_buffer, seed=seed)
    batches = records.batch(batch_size).map(parse, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return batches.prefetch(tf.data.AUTOTUNE)


def _decoded(encoded: Any, dtype: str, shape: tuple[int, ...]) -> Any:
    import tensorflow as tf

    if dtype != "image":
        return tf.reshape(tf.io.decode_raw(encoded, dtype), (tf.shape(encoded)[0], *shape))

    def decode(image: Any) -> Any:
        pixels = tf.io.decode_image(image, channels=shape[-1], expand_animations=False)
        return tf.cast(tf.ensure_shape(pixels, shape), "float32") / 255.0

    return tf.map_fn(decode, encoded, fn_output_signature=tf.TensorSpec(shape, "float32"))


def _check_first(file: str, batches: Any) -> None:
    import tensorflow as tf

    try:
        if next(iter(batches), None) is None:
            raise ValueError(f"{file}: holds no record, nor do those after it")
    except tf.errors.OpError as error:
        raise ValueError(f"{file}: cannot be read with these features ({error.message.splitlines()[0]})") from error
