"""A problem to train on: examples and labels, in parts, and what is to be learned from them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trainlab.datasets import tasks
from trainlab.datasets.checks import checked_count, checked_seed, num_drawn
from trainlab.datasets.structures import Batches, leaves, length, lengths, rows, shapes, x_of


class Integers(tuple[int, ...]):
    """The shape of an input of integers that stand for something, a category or a word: a tuple that says how many there are.

    Args:
        shape: Of an example.
        num_values: The integers are smaller than this.

    Example:
        >>> shape = Integers((20,), 5000)
        >>> shape, shape == (20,), shape.num_values
        ((20,) of 5000, True, 5000)
    """

    num_values: int

    def __new__(cls, shape: Sequence[int], num_values: int) -> Integers:
        """The tuple."""
        made = super().__new__(cls, shape)
        made.num_values = num_values
        return made

    def __repr__(self) -> str:
        return f"{tuple(self)} of {self.num_values}" if self else f"one of {self.num_values}"


@dataclasses.dataclass(frozen=True, eq=False)  # arrays have no single truth value, so `==` could only fail
class Data:
    """A named problem: examples to train on, and to validate and to test with.

    Attributes:
        name: The name of the data set.
        train: `(x, y)` or `(x, y, sample_weight)`, examples `(num_train, *input_shape)` and their labels; for a model of several
            inputs or outputs dictionaries, tuples or lists of them. Or a `tf.data.Dataset`, or a loader or data set of Grain's,
            of batches of these.
        test: The same of the test examples, which are looked at once, at the end; None where there are none, and then there is
            nothing to test.
        num_classes: Number of classes; labels of type integer lie in `[0, num_classes)`. Of a task without classes the number of
            labels or target columns. None finds it out from the labels of arrays: the largest + 1, or the number of columns.
        validation: The same as `train` of the examples that are looked at while training goes on; None where there are none yet:
            `split_off` draws some.
        task: What is learned, which decides `default_loss` and `default_metrics`:

            - `"classification"`: one class each, an integer, or a row of `num_classes` probabilities (one-hot, or soft labels);
            - `"multilabel"`: any number of labels each, a row of zeros and ones;
            - `"regression"`: numbers;
            - `"sequence_labeling"`: a class for each position of a sequence, integers `(num_examples, length)`, -1 for none.

            None finds it out: integers or booleans, one each, are classes; rows of zeros and ones are one class each if every row
            has a single one, otherwise several labels; other rows of integers are classes of positions, and other floats are
            numbers to regress on. Of data sets of batches only the dtype and the shape can be seen: rows of as many floats as
            there are `num_classes` are taken for one-hot ones. It stays None for several outputs, and for labels that are
            nothing of that.
        vocabularies: What the integers of an input stand for, by its name, or by `"x"` where there is one; of classes by `"y"`.

    Raises:
        TypeError, ValueError: A part is neither arrays nor batches, or `task` is no such word.

    Example:
        >>> import numpy as np
        >>> data = Data("line", train=(np.zeros([6, 4]), np.arange(6.0)))
        >>> data.input_shape, data.task, data.num_outputs
        ((4,), 'regression', 1)
    """

    name: str
    train: Any
    test: Any = None
    num_classes: int | None = None
    _: dataclasses.KW_ONLY
    validation: Any = None
    task: str | None = None
    vocabularies: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("train", "test", "validation"):
            part = getattr(self, name)
            if Batches.are_in(part):
                part = Batches(part)
                object.__setattr__(self, name, part)
            if hasattr(part, "element_spec"):
                _check_batches(f"Data.{name}", part.element_spec)
            elif name == "train" or part is not None:
                _check_arrays(f"Data.{name}", part)
        tasks.check(self.task)
        if self.num_classes is not None:
            checked_count("Data.num_classes", self.num_classes)
        if self.task is None:
            object.__setattr__(self, "task", tasks.found(self._labels, self.num_classes))

    @property
    def is_arrays(self) -> bool:
        """Whether the training examples are arrays, of which batches are yet to be made."""
        return not hasattr(self.train, "element_spec")

    @property
    def input_shape(self) -> Any:
        """Shape of one example, without the batch axis; of several inputs in the structure that x has.

        Where the input has a vocabulary, the shape says how large that is: see `Integers`.
        """
        shape = shapes(self.train[0] if self.is_arrays else x_of(self.train.element_spec))
        sizes = {name: len(vocabulary) for name, vocabulary in self.vocabularies.items()}
        if isinstance(shape, dict):
            return {name: Integers(part, sizes[name]) if name in sizes else part for name, part in shape.items()}
        return Integers(shape, sizes["x"]) if "x" in sizes else shape

    @property
    def num_examples(self) -> int:
        """Number of training examples, of arrays."""
        return length(self.train[1])

    @property
    def lengths(self) -> set[int]:
        """The numbers of examples of all that there are training arrays of: one number, where all is well."""
        return set().union(*map(lengths, self.train))

    @property
    def num_outputs(self) -> int:
        """What a model is called with: the number of classes, labels or target columns.

        Raises:
            ValueError: It was not given, and the labels do not tell.

        Example:
            >>> import numpy as np
            >>> Data("two columns", (np.zeros([6, 4]), np.random.default_rng(0).normal(size=[6, 2]))).num_outputs
            2
        """
        if self.num_classes is not None:
            return self.num_classes
        others = [part[1] for part in (self.validation, self.test) if part is not None and not hasattr(part, "element_spec")]
        return tasks.num_outputs(self.task, [self._labels, *others])

    def default_loss(self) -> Any:
        """A Keras loss that fits the task, for a model that returns logits, or numbers where there are no classes.

        Raises:
            ValueError: The task is not known.

        Example:
            >>> import numpy as np
            >>> Data("two classes", (np.zeros([6, 4]), np.arange(6) % 2)).default_loss().name
            'sparse_categorical_crossentropy'
        """
        return tasks.loss(self.task, self._labels)

    def default_metrics(self) -> list[Any]:
        """Metrics that fit the task: names, or Keras' objects, new ones at each call.

        Raises:
            ValueError: The task is not known.

        Example:
            >>> import numpy as np
            >>> Data("a line", (np.zeros([6, 4]), np.arange(6.0))).default_metrics()
            ['mae']
        """
        return tasks.metrics(self.task)

    def split_off(self, fraction: float, seed: int = 0) -> Data:
        """The same data with a validation part that is drawn from the training part.

        It is drawn at random, by a seed, and both keep the order of the examples. Of arrays in files (`np.memmap`) it is their
        end, so that nothing is read.

        Args:
            fraction: The part of the training examples that is drawn, in (0, 1).
            seed: Which ones.

        Returns:
            New data, with sample weights where there were some.

        Raises:
            ValueError: These are data sets of batches, there is a validation part, or the fraction or the seed breaks its rule.

        Example:
            >>> import numpy as np
            >>> data = Data("ten", (np.arange(10.0), np.arange(10) % 2)).split_off(0.3)
            >>> data.train[0], data.validation[0]
            (array([0., 1., 3., 5., 7., 8., 9.]), array([2., 4., 6.]))
        """
        if not self.is_arrays:
            raise ValueError(f"{self.name}: only arrays can be split, not a data set of batches: give validation= one of its own")
        if self.validation is not None:
            raise ValueError(f"{self.name}: has a validation part, and another would be split off: leave one of them out")
        num_examples = self.num_examples
        number = num_drawn("fraction", fraction, num_examples, "validation")
        if any(isinstance(leaf, np.memmap) for leaf in leaves(tuple(self.train))):
            checked_seed(seed)
            kept: Any = slice(num_examples - number)
            drawn: Any = slice(num_examples - number, num_examples)
        else:
            is_drawn = np.zeros(num_examples, bool)
            is_drawn[np.random.default_rng(checked_seed(seed)).permutation(num_examples)[:number]] = True
            kept, drawn = np.flatnonzero(~is_drawn), np.flatnonzero(is_drawn)
        train, validation = (tuple(rows(part, which) for part in self.train) for which in (kept, drawn))
        return dataclasses.replace(self, train=train, validation=validation)

    def first(self, num_examples: int) -> tuple[Any, ...]:
        """The first training examples: x, y and, where there are some, sample weights, in the containers that they are in.

        Args:
            num_examples: How many, at most.

        Example:
            >>> import numpy as np
            >>> Data("ten", (np.arange(10.0), [0, 1] * 5)).first(3)
            (array([0., 1., 2.]), [0, 1, 0])
        """
        return tuple(rows(part, slice(num_examples)) for part in self.train)

    @property
    def described_sizes(self) -> str:
        """How much there is, in words.

        Example:
            >>> import numpy as np
            >>> x, y = np.zeros([6, 4]), np.arange(6) % 2
            >>> Data("own", (x, y), (x[:2], y[:2])).described_sizes
            '6 training and 2 test examples'
        """
        parts = {"training": self.train, "validation": self.validation, "test": self.test}
        given = {name: part for name, part in parts.items() if part is not None}
        if not any(hasattr(part, "element_spec") for part in given.values()):
            return f"{_listed([f'{length(part[1]):,} {name}' for name, part in given.items()])} examples"
        verbs = {"training": "train on", "validation": "validate with", "test": "test"}
        return f"{_listed([f'{_size(part)} to {verbs[name]}' for name, part in given.items()])}, examples"

    @property
    def _labels(self) -> Any:
        """The labels of the training part: arrays, or their specs."""
        return self.train[1] if self.is_arrays else self.train.element_spec[1]


def _check_arrays(name: str, part: Any) -> None:
    if not isinstance(part, (tuple, list)) or len(part) not in (2, 3):
        has = f"{len(part)} things" if isinstance(part, (tuple, list)) else f"a {type(part).__name__}"
        raise TypeError(
            f"{name} must be a pair (x, y) of arrays, or a tf.data.Dataset of batches, not {has}"
            + ("; a third may be sample_weight" if isinstance(part, (tuple, list)) else "")
        )


def _check_batches(name: str, element: Any) -> None:
    if not isinstance(element, (tuple, list)) or len(element) not in (2, 3):
        raise TypeError(f"{name}: each element of the data set must be a batch (x, y), or (x, y, sample_weight), not {element}")
    for spec in leaves(tuple(element)):
        if getattr(getattr(spec, "shape", None), "rank", None) == 0:
            raise ValueError(f"{name}: each element of the data set is one example and no batch: did you forget .batch(32)?")


def _size(part: Any) -> str:
    if not hasattr(part, "element_spec"):
        return f"{length(part[1]):,} examples"
    cardinality = getattr(part, "cardinality", lambda: -1)
    number = int(cardinality())  # negative where it is infinite or not known
    return "a data set" if number < 0 else f"a data set of {number:,} batch{'' if number == 1 else 'es'}"


def _listed(words: list[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
