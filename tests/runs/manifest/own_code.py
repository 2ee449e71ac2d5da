"""Code as a user would write it, from the texts beside this file."""

import ast
import pathlib

HERE = pathlib.Path(__file__).parent
IMPORTS = """
import collections, dataclasses, enum, functools, threading, types
import keras, numpy as np, tensorflow as tf
import trainlab as tl
"""


def _parts(name):
    text = (HERE / name).read_text(encoding="utf-8")
    return [part.split("\n", 1) for part in text.split("\n### ")[1:]]


def changing():
    """By name: a source, a text in it, and what it is replaced by."""
    heads = [(head.split(" ||| "), source) for head, source in _parts("code_that_changes.txt")]
    return {name: (source, ast.literal_eval(old), ast.literal_eval(new)) for (name, old, new), source in heads}


def alike():
    """By name: two sources."""
    return {name: source.split("--- and\n") for name, source in _parts("code_that_is_alike.txt")}


def in_keras():
    """By name: a source with VALUE in it."""
    return dict(_parts("code_that_keras_takes.txt"))


def run(source, file="<typed in>", before="", name="users_module"):
    """The names that a source defines; `before` shifts its lines."""
    namespace = {"__name__": name}
    exec(compile(IMPORTS + before + source, file, "exec"), namespace)
    return namespace
