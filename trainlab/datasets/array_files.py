"""Files of NumPy arrays: one `.npz` of all, or a `.npy` each."""

import os
import zipfile
import zlib
from pathlib import Path

import numpy as np

from trainlab.datasets.checks import is_integer
from trainlab.datasets.data import Data

PathLike = str | os.PathLike[str]


def npz(path: str | os.PathLike, num_classes: int | None = None) -> Data:
    """A file of your own, written by `np.savez(path, x_train=..., y_train=..., x_test=..., y_test=...)`.

    Args:
        path: The file; a leading `~` is expanded. Object arrays are refused: reading one can run code.
        num_classes: Number of classes; None takes the largest label + 1 of integer labels, one per example.

    Returns:
        The arrays with their stored shapes and dtypes, named after the file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file cannot be read, an array is missing, the arrays do not fit together, or
            `num_classes` is not a positive integer, too small for the labels, or missing where it cannot be
            read off the labels.

    Example:
        >>> data = npz("my_data.npz")  # doctest: +SKIP
    """
    file = Path(path).expanduser()
    arrays = _read(file)
    for split in ("train", "test"):
        _check_split(file, split, arrays[f"x_{split}"], arrays[f"y_{split}"])
    if arrays["x_train"].shape[1:] != arrays["x_test"].shape[1:]:
        raise ValueError(
            f"{file}: x_train has examples of shape {arrays['x_train'].shape[1:]} and x_test of "
            f"{arrays['x_test'].shape[1:]}; both must be alike, pad or crop one of them"
        )
    return Data(
        file.stem,
        (arrays["x_train"], arrays["y_train"]),
        (arrays["x_test"], arrays["y_test"]),
        _num_classes(file, (arrays["y_train"], arrays["y_test"]), num_classes),
    )


def npy(
    x_train: PathLike,
    y_train: PathLike,
    x_test: PathLike | None = None,
    y_test: PathLike | None = None,
    num_classes: int | None = None,
    task: str | None = None,
) -> Data:
    """Files of your own, one for each array, written by `np.save`; they are not read whole, but as training needs them.

    Args:
        x_train, y_train: The files of the training part; a leading `~` is expanded.
        x_test, y_test: Those of the test part; None for none.
        num_classes, task: As in `Data`.

    Returns:
        The arrays with their stored shapes and dtypes, in the files (`np.memmap`), named after that of `x_train`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A file cannot be read or the arrays do not fit together.

    Example:
        >>> np.save("x.npy", np.ones([6, 4])), np.save("y.npy", np.arange(6.0))
        (None, None)
        >>> data = npy("x.npy", "y.npy")
        >>> data.task, data.described_sizes
        ('regression', '6 training examples')
    """
    if (x_test is None) != (y_test is None):
        raise ValueError("x_test and y_test: give both or none")
    files = [(x_train, y_train)] + ([] if x_test is None or y_test is None else [(x_test, y_test)])
    parts = []
    for split, (x_path, y_path) in zip(("train", "test"), files, strict=False):
        file = Path(x_path).expanduser()
        x, y = _mapped(file), _mapped(Path(y_path).expanduser())
        _check_split(file, split, x, y)
        parts.append((x, y))
    if len(parts) > 1 and parts[0][0].shape[1:] != parts[1][0].shape[1:]:
        shapes = " and ".join(str(x.shape[1:]) for x, _ in parts)
        raise ValueError(f"{x_test}: x_train and x_test have examples of shape {shapes}; both must be alike")
    test = parts[1] if len(parts) > 1 else None
    return Data(Path(x_train).expanduser().stem, parts[0], test, num_classes=num_classes, task=task)


def _mapped(file: Path) -> np.ndarray:
    if not file.exists():
        raise FileNotFoundError(f"{file}: no such file; write one with np.save(path, array)")
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{file}: cannot be read as a .npy file ({reason}); write it again with np.save") from error
    if not isinstance(array, np.ndarray):
        array.close()
        raise ValueError(f"{file}: holds several arrays (.npz); use npz(path)")
    return array


def _read(file: Path) -> dict[str, np.ndarray]:
    names = ("x_train", "y_train", "x_test", "y_test")
    if not file.exists():
        raise FileNotFoundError(f"{file}: no such file; write one with np.savez(path, {', '.join(f'{n}=...' for n in names)})")
    try:
        loaded = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile) as error:
        raise ValueError(_unreadable(file, error)) from error
    if not isinstance(loaded, np.lib.npyio.NpzFile):
        raise ValueError(f"{file}: holds one array without a name (.npy); write it with np.savez")
    with loaded:
        missing = [name for name in names if name not in loaded.files]
        if missing:
            raise ValueError(
                f"{file}: has no array {', '.join(missing)} (it has: {', '.join(loaded.files) or 'none'}); "
                f"write all of {', '.join(names)} with np.savez"
            )
        return {name: _array(file, loaded, name) for name in names}


def _array(file: Path, loaded: np.lib.npyio.NpzFile, name: str) -> np.ndarray:
    try:
        return loaded[name]
    except ValueError as error:
        if "allow_pickle" not in str(error):  # NumPy has no error type of its own for object arrays
            raise ValueError(_unreadable(file, error)) from error
        raise ValueError(
            f"{file}: {name} is an object array, and reading one would run code from the file; "
            "write plain numbers or strings of one common shape, for example np.stack(list_of_examples)"
        ) from None
    except (OSError, EOFError, RuntimeError, zlib.error, zipfile.BadZipFile) as error:
        raise ValueError(_unreadable(file, error)) from error


def _unreadable(file: Path, error: Exception) -> str:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return f"{file}: cannot be read as a .npz file ({reason}); write it again with np.savez"


def _check_split(file: Path, split: str, x: np.ndarray, y: np.ndarray) -> None:
    for name, array in ((f"x_{split}", x), (f"y_{split}", y)):
        if array.ndim == 0 or len(array) == 0:
            raise ValueError(f"{file}: {name} has shape {array.shape}; its first axis must hold at least one example")
    if len(x) != len(y):
        raise ValueError(f"{file}: x_{split} has {len(x)} examples, y_{split} {len(y)}; write as many of each")


def _num_classes(file: Path, labels: tuple[np.ndarray, ...], num_classes: int | None) -> int:
    if num_classes is not None and (not is_integer(num_classes) or num_classes < 1):
        raise ValueError(f"num_classes={num_classes!r}: must be a positive integer, or None to infer it from labels")
    # Others (one-hot rows, token labels with a padding value, regression targets) have no largest class.
    others = [y for y in labels if y.dtype.kind not in "iu" or y.size != len(y)]
    if others:
        if num_classes is None:
            raise ValueError(
                f"{file}: num_classes=None takes the largest label + 1 and needs integer labels, one per "
                f"example, but they are {others[0].dtype} of shape {others[0].shape}; pass num_classes"
            )
        return int(num_classes)
    smallest, largest = min(int(y.min()) for y in labels), max(int(y.max()) for y in labels)
    if smallest < 0:
        raise ValueError(f"{file}: label {smallest}: integer labels must be >= 0; number the classes from 0")
    if num_classes is None:
        return largest + 1
    if largest >= num_classes:
        raise ValueError(f"{file}: label {largest}: must be < num_classes; pass num_classes={largest + 1}")
    return int(num_classes)
