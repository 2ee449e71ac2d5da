"""Data from folders with a folder of files for each class: images, which are read as training goes on, and texts."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trainlab.datasets.checks import checked_count, checked_seed, num_drawn
from trainlab.datasets.data import Data

PathLike = str | os.PathLike[str]
_COLOR_MODES = ("rgb", "grayscale", "rgba")
# What the files begin with that `tf.io.decode_image` reads: PNG, JPEG, GIF, BMP, WebP, and both forms of JPEG XL.
_IMAGES = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM", b"RIFF", b"\xff\x0a", b"\0\0\0\x0cJXL ")
_BOM = b"\xef\xbb\xbf"


def image_folder(
    path: PathLike,
    image_size: Sequence[int],
    batch_size: int = 32,
    test: PathLike | None = None,
    test_fraction: float | None = 0.2,
    color_mode: str = "rgb",
    shuffle: bool = True,
    seed: int = 0,
) -> Data:
    """Images in `path/CLASS/...`: JPEG, PNG, GIF and BMP, read and resized by `keras.utils.image_dataset_from_directory`.

    They are read again in each epoch, a batch at a time, by a pipeline that a run goes on with exactly.

    Args:
        path: The folder, on a file system of this machine (no `gs://`); a leading `~` is expanded. The classes are the names of
            its folders, in their order.
        image_size: `(height, width)` that they are resized to.
        batch_size: Images in a batch; that of `fit` and of `run` does not count.
        test: Another folder with the test part, of the same classes.
        test_fraction: Where there is no other folder, the fraction of the images that form the test part, in (0, 1), drawn by the
            seed; None for no test part.
        color_mode: `"rgb"`, `"grayscale"` or `"rgba"`.
        shuffle: Whether each epoch has its own order: among 1,024 images that come next, after all were shuffled once. Otherwise
            they come class by class, and no test part can be drawn.
        seed: Of the orders.

    Returns:
        Data sets of batches of `x` float32 `(n, height, width, channels)` in [0, 1] and `y` int32 `(n,)`.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: There are no classes or images in it, a file is no image, both folders have not the same classes, or an
            argument breaks its rule.

    Example:
        >>> data = image_folder("pets", image_size=(64, 64))  # doctest: +SKIP
    """
    import keras

    if color_mode not in _COLOR_MODES:
        raise ValueError(f"color_mode={color_mode!r}: must be {', '.join(map(repr, _COLOR_MODES))}")
    if isinstance(image_size, str) or not isinstance(image_size, Sequence) or len(image_size) != 2:
        raise ValueError(f"image_size={image_size!r}: must be (height, width), for example image_size=(64, 64)")
    size = tuple(checked_count(f"image_size[{i}]", side) for i, side in enumerate(image_size))
    batch_size, seed = checked_count("batch_size", batch_size), checked_seed(seed)
    if not isinstance(shuffle, bool):
        raise ValueError(f"shuffle={shuffle!r}: must be True or False")
    drawn = None if test is not None else test_fraction
    if drawn is not None:
        num_drawn("test_fraction", drawn, 2**20, "test")  # how many there are Keras counts
        if not shuffle:
            raise ValueError(
                "shuffle=False: unshuffled images come class by class, of which no test part can be drawn: "
                "give test= another folder, or test_fraction=None"
            )
    folder, classes = _classes(path)

    def read(folder: Path, shuffle: bool, **split: Any) -> Any:
        return _read(
            keras.utils.image_dataset_from_directory,
            folder,
            image_size=size,
            color_mode=color_mode,
            class_names=classes,
            shuffle=shuffle,
            seed=seed,
            **split,
        )

    if drawn is not None:
        parts = read(folder, True, validation_split=drawn, subset="both")
    else:
        others = [] if test is None else [read(_same_classes(test, classes), False)]
        parts = [read(folder, shuffle), *others]
    for part in parts:
        _check_images(part.file_paths)
    batches = [_batches(part, batch_size) for part in parts]
    test_part = batches[1] if len(batches) > 1 else None
    return Data(folder.name, batches[0], test_part, num_classes=len(classes), vocabularies={"y": tuple(classes)})


def text_folder(
    path: PathLike,
    num_words: int = 10_000,
    length: int = 200,
    test: PathLike | None = None,
    test_fraction: float | None = 0.2,
    seed: int = 0,
) -> Data:
    """Texts in `path/CLASS/*.txt`, read by `keras.utils.text_dataset_from_directory`, as numbered words.

    Words are what `keras.layers.TextVectorization` makes of a text: lower case, no punctuation, cut at white space. They are
    numbered by how often the training part has them.

    Args:
        path: The folder, on a file system of this machine (no `gs://`); a leading `~` is expanded. The classes are the names of
            its folders, in their order.
        num_words: The vocabulary's size at most: 0 is padding, 1 all words that are not in it.
        length: Words of a text; the others are cut off.
        test: Another folder with the test part, of the same classes.
        test_fraction: Where there is no other folder, the fraction of the texts that form the test part, in (0, 1); None for no
            test part.
        seed: Which ones are drawn for it.

    Returns:
        Arrays, class by class, `x` int32 `(n, length)` and `y` int32 `(n,)`; `Data.vocabularies["x"]` are the words.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: There are no classes or texts in it, a file is not UTF-8, both folders have not the same classes, or an
            argument breaks its rule.

    Example:
        >>> from pathlib import Path
        >>> for name, text in (("bad", "No good!"), ("good", "Good, very good.")):
        ...     Path("reviews", name).mkdir(parents=True)
        ...     _ = Path("reviews", name, "1.txt").write_text(text)
        >>> data = text_folder("reviews", length=4, test_fraction=None)
        >>> data.train[0].tolist(), data.vocabularies["x"]
        ([[4, 2, 0, 0], [2, 3, 2, 0]], ('', '[UNK]', 'good', 'very', 'no'))
    """
    import keras

    num_words, length, seed = checked_count("num_words", num_words, 3), checked_count("length", length), checked_seed(seed)
    folder, classes = _classes(path)
    folders = [folder] if test is None else [folder, _same_classes(test, classes)]
    read = [_read(keras.utils.text_dataset_from_directory, folder, class_names=classes, shuffle=False) for folder in folders]
    parts = [_arrays(*part) for part in zip(folders, read, strict=True)]
    if test is None and test_fraction is not None:
        texts, labels = parts[0]
        number = num_drawn("test_fraction", test_fraction, len(texts), "test")
        is_test = np.zeros(len(texts), bool)
        is_test[np.random.default_rng(seed).permutation(len(texts))[:number]] = True
        parts = [(texts[which], labels[which]) for which in (~is_test, is_test)]
    words = keras.layers.TextVectorization(num_words, output_sequence_length=length)
    words.adapt(parts[0][0])
    if words.vocabulary_size() <= 2:  # padding, and words that are not in it
        raise ValueError(f"{folder}: the texts to train on hold no words")
    numbered = [(_numbers(words, texts), labels) for texts, labels in parts]
    vocabularies = {"x": tuple(map(str, words.get_vocabulary())), "y": tuple(classes)}
    test_part = numbered[1] if len(numbered) > 1 else None
    return Data(folder.name, numbered[0], test_part, num_classes=len(classes), vocabularies=vocabularies)


def _classes(path: PathLike) -> tuple[Path, list[str]]:
    """A folder, and the names of the folders in it."""
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder")
    classes = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not classes:
        raise ValueError(f"{folder}: has no folder of a class; files must lie in {folder}/NAME-OF-CLASS")
    return folder, classes


def _same_classes(path: PathLike, classes: Sequence[str]) -> Path:
    folder, others = _classes(path)
    if others != list(classes):
        raise ValueError(f"{folder}: has the classes {', '.join(others)}, and the training part {', '.join(classes)}")
    return folder


def _read(reader: Callable[..., Any], folder: Path, **arguments: Any) -> Any:
    try:
        return reader(str(folder), label_mode="int", batch_size=None, verbose=False, **arguments)
    except ValueError as error:
        if "validation_split" in arguments:  # Keras says of a part without files that there are none
            whole = {name: value for name, value in arguments.items() if name not in ("validation_split", "subset")}
            num_drawn("test_fraction", arguments["validation_split"], len(_read(reader, folder, **whole).file_paths), "test", int)
        raise ValueError(f"{folder}: {str(error).splitlines()[0]}") from error


def _check_images(paths: Sequence[str]) -> None:
    """Looks at how the files begin: what fails to be read while training goes on has no name."""
    for path in paths:
        with open(path, "rb") as file:
            if not file.read(8).startswith(_IMAGES):
                raise ValueError(
                    f"{path}: is no image, by its first bytes: remove it, or write it again as JPEG, PNG, GIF or BMP"
                )


def _batches(images: Any, batch_size: int) -> Any:
    import tensorflow as tf

    def scaled(x: Any, y: Any) -> Any:
        return x / 255.0, y

    batches = images.batch(batch_size).map(scaled, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return batches.prefetch(tf.data.AUTOTUNE)


def _arrays(folder: Path, texts: Any) -> tuple[np.ndarray, np.ndarray]:
    pairs = list(texts.as_numpy_iterator())
    for text, _ in pairs:
        try:
            text.decode()
        except UnicodeDecodeError as error:
            paths = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.read_bytes() == text)
            where = next(paths, folder)  # Keras says not which file a text is from
            raise ValueError(f"{where}: is no text in UTF-8 (byte {error.start:,}): write it so, or remove it") from None
    return np.array([text.removeprefix(_BOM) for text, _ in pairs], object), np.array([label for _, label in pairs], np.int32)


def _numbers(words: Any, texts: np.ndarray) -> np.ndarray:
    numbers = np.concatenate([np.asarray(words(texts[start : start + 1024])) for start in range(0, len(texts), 1024)])
    numbers[(numbers == 0).all(axis=1), 0] = 1  # a text without a word: of nothing but padding there would be no mean
    return numbers.astype(np.int32)
