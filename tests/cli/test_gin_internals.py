import ast
import inspect
import re
from pathlib import Path

import gin
import pytest
from config_files import HEUN

import trainlab
from trainlab.cli.configs import gin_internals
from trainlab.cli.configs.reading import load

pytestmark = pytest.mark.usefixtures("clean")


def statements(text):
    parser = gin_internals.Parser(text, lambda name: f"trainlab.{name}")
    found = []
    while (statement := parser.next()) is not None:
        found.append(statement)
    return found


def value(text):
    """The value that stands for this text in a config."""
    (statement,) = statements(f"f.x = {text}")
    return statement.value


def test_registered_lists_what_a_config_may_use():
    assert {"trainlab.run", "trainlab.Heun", "keras.optimizers.SGD"} <= set(gin_internals.registered())
    assert not [name for name in gin_internals.registered() if name.startswith("gin.")]

    def registered_just_now():
        pass

    gin.external_configurable(registered_just_now, module="test")
    assert "test.registered_just_now" in gin_internals.registered()


def test_matching_tells_unknown_from_ambiguous():
    assert gin_internals.matching("Heun") == gin_internals.matching("trainlab.Heun") == ["trainlab.Heun"]
    assert sorted(gin_internals.matching("SGD")) == ["keras.optimizers.SGD", "trainlab.SGD"]
    assert gin_internals.matching("Heum") == gin_internals.matching("macro") == []


def test_what_is_only_looked_at_needs_not_be_registered():
    def value(text):
        return gin_internals.Parser(f"f.x = {text}", str, is_to_be_built=False).next().value

    nosuch = gin_internals.Unbuilt("nosuch", is_called=True)
    assert value("@nosuch()") == nosuch and value("[1, {'a': @nosuch()}]") == [1, {"a": nosuch}]
    assert gin_internals.is_plain(value("[1, {'a': (2, 'b')}]"))
    for text in ("@nosuch", "[1, {'a': @nosuch()}]", "%macro", "{'a': %macro}"):
        assert not gin_internals.is_plain(value(text)), text
    with pytest.raises(ValueError, match="nosuch"):  # the control
        gin_internals.Parser("f.x = @nosuch()", str).next()


def test_original_is_what_was_registered():
    assert gin_internals.original("trainlab.Heun") is trainlab.Heun
    assert gin.get_configurable("trainlab.Heun") is not trainlab.Heun  # the control
    with pytest.raises(KeyError):
        gin_internals.original("Heum")


def test_used_is_what_was_called_and_with_which_parameters():
    config = load([HEUN])
    assert gin_internals.used() == []
    config.build()
    used = {(scope, selector): arguments for scope, selector, arguments in gin_internals.used()}
    assert {"data", "epochs", "seed"} <= used["", "trainlab.run"]
    assert "learning_rate" in used["", "keras.optimizers.SGD"]
    assert ("", "trainlab.models.mlp") not in used  # not called yet


def test_macros_are_found_however_deep():
    assert gin_internals.macros(value("[%a, {'k': (%deep/b,)}, @Heun(), 3, '%c']")) == ["a", "deep/b"]
    assert gin_internals.macros(3) == []


def test_macro_is_the_value_itself_and_nothing_inside_it():
    assert gin_internals.macro(value("%a")) == "a"
    assert [gin_internals.macro(value(text)) for text in ("[%a]", "@Heun()", "@Heun", "'%a'", "None")] == [None] * 5


def test_called_is_a_reference_with_parentheses():
    assert gin_internals.called(value("@Heun()")) == gin_internals.called(value("@wide/Heun()")) == "trainlab.Heun"
    assert [gin_internals.called(value(text)) for text in ("@Heun", "[@Heun()]", "3")] == [None] * 3


def test_parser_gives_the_statements_with_their_lines():
    text = (
        "# a comment\ninclude 'a.gin'\nimport a.b\nimport a.b as c\nfrom a import b\ns/f.x = [\n  1]\nm = 2\nScoped:\n  x = 3\n"
    )
    assert statements(text) == [
        gin_internals.Include("a.gin", 2),
        gin_internals.Import("a.b", "a.b", 3),
        gin_internals.Import("a.b", "c", 4),
        gin_internals.Import("a.b", "b", 5),
        gin_internals.Assignment("s", "f", "x", [1], 6),
        gin_internals.Assignment("", "m", "", 2, 8),
        gin_internals.Block("Scoped", 9),
        gin_internals.Assignment("", "Scoped", "x", 3, 10),
    ]


def test_parser_asks_for_a_name_only_when_it_gets_there():
    asked = []

    def find(name):
        asked.append(name)
        return "trainlab.Heun"

    parser = gin_internals.Parser("f.x = 1\nf.y = @scope/own.Name()\n", find)
    parser.next()
    assert asked == []
    assert gin_internals.called(parser.next().value) == "trainlab.Heun" and asked == ["own.Name"]
    assert parser.next() is None


def test_parser_says_where_a_text_cannot_be_read():
    with pytest.raises(SyntaxError) as caught:
        statements("f.x = 1\nf.x = = 2\n")
    assert caught.value.args[1].line_num == 2


# How a public name of gin's would be called that does the work of each of ours.
REPLACEMENTS = {
    "registered": "registered|registry|selectors|configurables",
    "matching": "match|find|look_?up|resolve",
    "original": "wrapped|original",
    "used": "operative_(config|bindings|parameters)$|used",
    "macros": "references|macros",
    "macro": "reference|macro",
    "called": "reference",
    "is_plain": "reference|literal",
    "references": "reference",
    "Unbuilt": "reference",
    "Include": "statement",
    "Import": "statement",
    "Block": "statement",
    "Assignment": "statement",
    "Parser": "parser|parse_statement",
}


def public_names(module):
    """What `import gin` gives to its users: no submodules."""
    return [name for name, item in vars(module).items() if not name.startswith("_") and not inspect.ismodule(item)]


@pytest.mark.parametrize("ours", REPLACEMENTS)
def test_gin_has_nothing_public_in_its_place(ours):
    found = [f"gin.{name}" for name in public_names(gin) if re.search(REPLACEMENTS[ours], name, re.IGNORECASE)]
    assert found == [], f"see whether {', '.join(found)} does what gin_internals.{ours} does; if so, use it and remove ours"


def test_a_public_replacement_would_be_found(monkeypatch):
    monkeypatch.setattr(gin, "registered_names", list, raising=False)
    with pytest.raises(AssertionError, match="see whether gin.registered_names does what gin_internals.registered does"):
        test_gin_has_nothing_public_in_its_place("registered")


def test_each_says_what_would_replace_it():
    here = [item for item in vars(gin_internals).values() if getattr(item, "__module__", "") == gin_internals.__name__]
    ours = {item.__name__: inspect.getdoc(item) for item in here if hasattr(item, "__name__")}
    assert {name for name in ours if not name.startswith("_")} == REPLACEMENTS.keys()
    for name, text in ours.items():
        assert re.search(r"gin has no\s+public", text.replace("\n", " ")), name
        assert "replace" in text or name.startswith("_"), name


def names_of_gin_in(source):
    """The modules imported and the attributes of `gin` that a source uses."""
    modules, attributes = set(), set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "gin":
            attributes.add(node.attr)
    return {name for name in modules if name.partition(".")[0] == "gin"}, attributes


def test_no_other_module_knows_more_of_gin_than_its_public_names():
    package = Path(trainlab.__file__).parent
    knows_gin = set()
    for file in package.rglob("*.py"):
        modules, attributes = names_of_gin_in(file.read_text())
        if modules:
            knows_gin.add(str(file.relative_to(package)))
        if file.name != "gin_internals.py":
            assert modules <= {"gin"}, file
            assert attributes <= set(public_names(gin)), file
    assert knows_gin == {
        f"cli/configs/{name}.py" for name in ("checks", "config", "gin_internals", "monitors", "names", "reading")
    }


@pytest.mark.parametrize(
    "source", ["import gin.config", "from gin import config", "from gin.config import macro", "import gin\ngin.config._REGISTRY"]
)
def test_a_private_name_of_gin_would_be_found(source):
    modules, attributes = names_of_gin_in(source)
    assert not (modules <= {"gin"} and attributes <= set(public_names(gin)))


def test_only_the_flags_know_absl_and_only_the_command_and_train_the_command_line():
    package = Path(trainlab.__file__).parent
    for file in package.rglob("*.py"):
        imported = re.findall(r"^\s*(?:from|import) (\S+)", file.read_text(), re.MULTILINE)
        if file not in (package / "cli" / "options.py", package / "cli" / "completion.py"):
            assert not [name for name in imported if name.partition(".")[0] == "absl"], file
        if package / "cli" not in file.parents and file != package / "train.py":
            assert not [name for name in imported if name.startswith("trainlab.cli")], file
