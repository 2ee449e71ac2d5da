"""Reads the package's sources, for the tests of how the house is built."""

import ast
import pathlib
import re

import trainlab

PACKAGE = pathlib.Path(trainlab.__file__).parent
ROOT = PACKAGE.parent
INTERNALS = {  # by what is private there: the one module that may touch it
    "keras": "objective.keras_internals",
    "tensorflow": "parameters.tensorflow_internals",
    "gin": "cli.configs.gin_internals",
}
# What belongs to the language, to named tuples or to notebooks, though it begins with an underscore.
_PYTHONS = {"_repr_html_", "_replace", "_asdict", "_make", "_fields", "_exit"}
_PRIVATE = re.compile(r"_[A-Za-z]\w*")


def modules():
    """The source of every module, by its name without `trainlab.`; that of a package is its `__init__`."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text(encoding="utf-8")
    return found


def imports(source):
    """Every module that a source imports, at the top or inside a function; `from a import b` may mean `a` or `a.b`."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports are not read here"
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def reached_into(name, source, public):
    """What a module imports of another package past what that exports; `public` are the names it exports, by package."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, (ast.ImportFrom, ast.Import)):
            continue
        of = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
        for module in of:
            root, _, rest = module.partition(".")
            package, _, inside = rest.partition(".")
            if root != "trainlab" or package not in public or package == name.partition(".")[0]:
                continue
            names = {alias.name for alias in node.names} if isinstance(node, ast.ImportFrom) else set()
            if inside:
                found.add(module)
            found |= {f"{module}.{other}" for other in names if not inside and other not in public[package]}
    return found


def exported(source):
    """The names in a source's `__all__`."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and [getattr(target, "id", "") for target in node.targets] == ["__all__"]:
            return set(ast.literal_eval(node.value))
    return set()


def foreign_private_names(source):
    """Names with a leading underscore that a module uses, as an attribute, an import or a string, and does not define."""
    tree = ast.parse(source)
    own, used = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            own.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            own.add(node.id)
        elif isinstance(node, ast.Attribute):
            is_own = isinstance(node.ctx, ast.Store) and isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            (own if is_own else used).add(node.attr)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            used.add(node.value)
        elif isinstance(node, ast.ImportFrom):
            used |= {alias.name for alias in node.names}
    return {name for name in used - own - _PYTHONS if _PRIVATE.fullmatch(name)}


def private_modules(source):
    """Modules that a source imports and that their owners do not document: `keras.src`, `tensorflow.python`, gin's parser."""
    private = ("keras.src", "tensorflow.python", "gin.config", "gin.config_parser", "gin.selector_map")
    return {name for name in imports(source) if any(f"{name}.".startswith(f"{module}.") for module in private)}


def lengths(source):
    """`(name, lines of code after the docstring)` of every function."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            yield node.name, (body[-1].end_lineno - body[0].lineno + 1) if body else 0
