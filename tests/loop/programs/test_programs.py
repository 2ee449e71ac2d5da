"""Which programs a loop keeps, and which layouts are traced for one number of examples alone."""

import gc
import weakref

import pytest
import tensorflow as tf

from trainlab.data import TrailingLayout
from trainlab.data.blocks import ArrayLayout
from trainlab.loop.programs.programs import MOST, Programs


def whole(batch_size=4, full=2):
    return ArrayLayout(list, (tf.TensorSpec([None], tf.int64),), "x", batch_size, full, 0, None)


def trailing(size, **settings):
    return TrailingLayout(whole(), size, **settings)


class Program:
    """Stands for a compiled function."""

    def __init__(self, layout):
        self.layout = layout


def built(layout, jit_compile):
    return Program(layout)


def failing(*fails):
    """Builds all but what one of these functions holds for."""

    def build(layout, jit_compile):
        if any(fail(layout) for fail in fails):
            raise TypeError(f"cannot be traced: {layout.size}")
        return Program(layout)

    return build


def is_open(layout):
    return isinstance(layout, TrailingLayout)


@pytest.mark.parametrize("most", [MOST])
def test_those_used_last_are_kept_and_others_are_freed(most):
    programs = Programs(built)
    first, second = (programs.get(whole(i), False) for i in (1, 2))
    freed = weakref.ref(second)
    for i in range(3, most + 2):  # one too many
        assert programs.get(whole(1), False) is first  # in use all the time
        programs.get(whole(i), False)
    del second
    gc.collect()
    assert freed() is None and len(list(programs.values())) == most
    assert programs.get(whole(1), False) is first and programs.num_built == most + 1
    programs.get(whole(2), False)
    assert programs.num_built == most + 2  # the control: what was let go is built anew


def test_steady_use_builds_nothing_again():
    programs = Programs(built)
    for _ in range(3):
        for i in range(MOST):
            programs.get(whole(i + 1), False)
    assert programs.num_built == MOST


@pytest.mark.parametrize(
    ("jit_compile", "is_pass", "num_built"), [(False, False, 1), (False, True, 1), (True, False, 1), (True, True, 3)]
)
def test_what_is_left_is_a_value_but_for_xla_where_it_is_all_there_is(jit_compile, is_pass, num_built):
    programs = Programs(built)
    for size in (1, 3, 7):
        layout = trailing(size, is_pass=is_pass)
        program = programs.get(layout, jit_compile)
        assert is_open(program.layout) is (num_built == 1)
        assert is_open(program.layout) or program.layout.size == size
        assert programs.is_by_xla(layout, jit_compile) is (num_built == 3)
    assert programs.num_built == num_built


def test_what_cannot_be_left_open_is_tried_once():
    tried = []
    programs = Programs(failing(lambda layout: tried.append(layout) or is_open(layout)))
    for size in (1, 3, 7, 3):
        assert programs.get(trailing(size), False).layout == trailing(size).static
    assert [is_open(layout) for layout in tried] == [True, False, False, False]
    assert is_open(Programs(built).get(trailing(3), False).layout)  # the control


def test_of_two_errors_that_of_the_known_size_is_seen():
    programs = Programs(failing(is_open, lambda layout: layout.size == 3))
    with pytest.raises(TypeError, match="cannot be traced: 3") as info:
        programs.get(trailing(3), False)
    assert info.value.__cause__ is None and info.value.__context__ is None
    programs.get(trailing(5), False)


def test_other_layouts_errors_are_their_own():
    with pytest.raises(TypeError, match="cannot be traced: 8"):
        Programs(failing(lambda layout: True)).get(whole(), False)


def problem(error, text):
    return error(None, None, text)


@pytest.mark.parametrize(
    ("layout", "jit_compile", "error", "is_tried"),
    [
        (trailing(3), True, problem(tf.errors.NotFoundError, "Could not find device for node: x"), True),
        (trailing(3), True, problem(tf.errors.InvalidArgumentError, "No OpKernel was registered to support Op 'X'"), True),
        (trailing(3), False, problem(tf.errors.NotFoundError, "Could not find device for node: x"), False),
        (trailing(3), True, problem(tf.errors.InvalidArgumentError, "a label out of range"), False),
        (whole(), True, problem(tf.errors.NotFoundError, "Could not find device for node: x"), False),
    ],
    ids=["no device", "no kernel", "without XLA", "bad data", "whole updates"],
)
def test_what_only_xla_can_run_is_run_by_it(layout, jit_compile, error, is_tried):
    programs = Programs(built)
    programs.get(layout, jit_compile)
    assert programs.explain(layout, jit_compile, error) is is_tried
    assert programs.is_by_xla(layout, jit_compile) is (is_tried or layout == whole())


def test_an_error_of_a_run_is_told_as_that_of_tracing():
    programs = Programs(failing(lambda layout: not is_open(layout)))
    programs.get(trailing(3), False)
    with pytest.raises(TypeError, match="cannot be traced: 3"):
        programs.explain(trailing(3), False, problem(tf.errors.InvalidArgumentError, "shapes"))
    assert not programs.explain(trailing(3), False, problem(tf.errors.AbortedError, "shapes"))  # the control: of another kind


def test_those_of_one_choice_can_be_kept_and_all_let_go():
    programs = Programs(built)
    for jit_compile in (False, True):
        programs.get(whole(), jit_compile)
    jitted = programs.get(whole(), True)
    programs.keep(True)
    assert list(programs.values()) == [jitted]
    programs.clear()
    assert list(programs.values()) == []
