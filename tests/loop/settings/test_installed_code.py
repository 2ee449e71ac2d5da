"""What an installer has put somewhere is not the user's code, wherever that is."""

import importlib
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainlab.loop.settings import code


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder that is imported from, as `pip install --target` leaves it, with a module of the user's beside."""
    (tmp_path / "somebodys_package").mkdir()
    for name in ("somebodys_package/__init__.py", "somebodys_module.py", "users_module.py"):
        (tmp_path / name).write_text("class Thing:\n    def method(self):\n        return 1\n")
    record = tmp_path / "somebodys-1.0.dist-info" / "RECORD"
    record.parent.mkdir()
    record.write_text("somebodys_package/__init__.py,sha256=abc,1\nsomebodys_module.py,,\nsomebodys-1.0.dist-info/RECORD,,\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in ("somebodys_package", "somebodys_module", "users_module"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(("name", "expected"), [("somebodys_package", True), ("somebodys_module", True), ("users_module", False)])
def test_what_its_record_names_is_installed(folder, name, expected):
    module = importlib.import_module(name)
    assert code.is_installed(module.Thing) is expected
    assert code.is_installed(module.Thing.method) is expected
    assert code.is_installed_module(name) is expected


def test_without_a_record_all_of_it_is_the_users(folder):
    (folder / "somebodys-1.0.dist-info" / "RECORD").unlink()
    assert not code.is_installed(importlib.import_module("somebodys_package").Thing)


def test_links_of_an_installer_and_of_a_user(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (folder / "somebodys_module.py").rename(elsewhere / "cached.py")  # as an installer links to its cache
    (folder / "somebodys_module.py").symlink_to(elsewhere / "cached.py")
    (folder / "somebodys_package").rename(elsewhere / "checkout")  # as somebody links a checkout into it
    (folder / "somebodys_package").symlink_to(elsewhere / "checkout")
    assert code.is_installed(importlib.import_module("somebodys_module").Thing)
    assert not code.is_installed(importlib.import_module("somebodys_package").Thing)


def test_the_engines_are_installed_even_where_python_knows_no_such_place(monkeypatch):
    monkeypatch.setattr(code.site, "getsitepackages", list)
    monkeypatch.setattr(code.sysconfig, "get_paths", dict)
    code._places.cache_clear()
    code._is_in.cache_clear()
    try:
        assert all(map(code.is_installed, [keras.Model, keras.Model.fit, tf.Module, np.ma.MaskedArray]))
        assert not code.is_installed(test_links_of_an_installer_and_of_a_user)
    finally:
        code._places.cache_clear()
        code._is_in.cache_clear()
