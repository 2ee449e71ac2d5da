"""How the house is built: its rooms, what each may reach into, and how long things are."""

import pytest
from sources import INTERNALS, PACKAGE, ROOT, exported, foreign_private_names, lengths, modules, private_modules, reached_into

MODULES = modules()
PACKAGES = {name for name in MODULES if name and (PACKAGE / name).is_dir()}
PUBLIC = {name: exported(MODULES[name]) for name in PACKAGES}
ROOMS = set("comparing parameters objective strategies data datasets distribution loop models reports runs testing cli".split())
MOST_MODULES, MOST_LINES, MOST_LINES_OF_A_FUNCTION = 12, 400, 60


def test_twelve_rooms_and_four_modules():
    assert {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"} == ROOMS
    assert {path.name for path in PACKAGE.glob("*.py")} == {
        f"{name}.py" for name in ("__init__", "trainer", "callbacks", "train")
    }
    for room in ROOMS:
        assert 0 < len(list((PACKAGE / room).glob("*.py"))) <= MOST_MODULES, room


def test_every_room_says_what_it_is_and_what_it_shows():
    for name in PACKAGES:
        docstring = MODULES[name].split('"""')[1]
        assert docstring.endswith(".") and "\n" not in docstring, name
        assert PUBLIC[name], name


def test_nobody_reaches_into_another_room():
    assert {name: found for name, source in MODULES.items() if (found := reached_into(name, source, PUBLIC))} == {}


def test_reaching_into_a_room_would_be_found():
    public = {"parameters": {"Vector"}, "loop": set()}
    assert reached_into("loop.update", "from trainlab.parameters.vector import Vector", public) == {"trainlab.parameters.vector"}
    assert reached_into("loop.update", "def f():\n    import trainlab.parameters.rows", public) == {"trainlab.parameters.rows"}
    assert reached_into("trainer", "from trainlab.parameters import Rows", public) == {"trainlab.parameters.Rows"}
    assert reached_into("loop.update", "from trainlab.parameters import Vector", public) == set()
    assert reached_into("loop.update", "from trainlab.loop.jit import choose", public) == set()


def test_private_names_of_others_stand_in_one_module_each():
    allowed = set(INTERNALS.values())
    assert allowed <= set(MODULES)
    elsewhere = {name: source for name, source in MODULES.items() if name not in allowed}
    assert {name: found for name, source in elsewhere.items() if (found := foreign_private_names(source))} == {}
    assert {name: found for name, source in elsewhere.items() if (found := private_modules(source))} == {}
    for owner, name in INTERNALS.items():  # and none of another owner's
        assert {found.split(".")[0] for found in private_modules(MODULES[name])} <= {owner}
        assert foreign_private_names(MODULES[name])  # there is something to find


@pytest.mark.parametrize(
    ("source", "names", "imported"),
    [
        ("x = model._loss_tracker", {"_loss_tracker"}, set()),
        ("getattr(model, '_initial_epoch', None)", {"_initial_epoch"}, set()),
        ("class A:\n    def _f(self):\n        self._g = 1\n        return self._f, self._g, other._g", set(), set()),
        ("def f():\n    from keras.src import backend", set(), {"keras.src", "keras.src.backend"}),
        ("import tensorflow.python.eager.context", set(), {"tensorflow.python.eager.context"}),
        ("from trainlab.loop.jit import _race", {"_race"}, set()),
        ("entry._replace(a=1); value.__class__", set(), set()),
    ],
)
def test_a_private_name_would_be_found(source, names, imported):
    assert foreign_private_names(source) == names
    assert private_modules(source) == imported


def test_functions_and_files_are_short():
    paths = [*PACKAGE.rglob("*.py"), *(ROOT / "tests").rglob("*.py"), *(ROOT / "scripts").rglob("*.py")]
    sources = {path.relative_to(ROOT): path.read_text(encoding="utf-8") for path in paths}
    assert {path for path, source in sources.items() if source.count("\n") > MOST_LINES} == set()
    assert {  # but for tests, whose tables and stories may be longer
        f"{path}: {name}"
        for path, source in sources.items()
        if path.parts[0] != "tests"
        for name, length in lengths(source)
        if length > MOST_LINES_OF_A_FUNCTION
    } == set()


def test_a_long_function_would_be_found():
    source = 'def f():\n    """Says."""\n' + "    x = 1\n" * 61
    assert list(lengths(source)) == [("f", 61)]


def test_tests_mirror_the_rooms():
    assert ROOMS <= {path.name for path in (ROOT / "tests").iterdir() if path.is_dir()}
