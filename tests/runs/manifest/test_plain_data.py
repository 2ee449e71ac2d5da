"""Settings as plain data: what differs must show, and what is the same must not, in this process and in another."""

import functools
import json
import linecache
import os
import subprocess
import sys
import textwrap
import threading
import types

import keras
import numpy as np
import own_code
import pytest
import tensorflow as tf

import trainlab as tl
from trainlab.runs import manifest
from trainlab.runs.manifest.plain import NOT_COMPARED, Reader, plain

CHANGED, ALIKE = own_code.changing(), own_code.alike()


def made(source, file="<typed in>", before=""):
    """What `value` is in a source, run as a user's."""
    return own_code.run(textwrap.dedent(source), file, before)["value"]


def told_apart(a, b):
    a, b = json.loads(json.dumps([plain(a), plain(b)]))
    return manifest.differences({"strategy": a}, {"strategy": b}) != []


@pytest.mark.parametrize("name", CHANGED)
def test_what_does_something_else_is_told_apart(name):
    source, old, new = CHANGED[name]
    assert old in source
    assert told_apart(made(source), made(source.replace(old, new)))
    assert not told_apart(made(source), made(source, "/another/file.py", before="\n\n# A comment.\nunused = 3\n"))


@pytest.mark.parametrize("name", ALIKE)
def test_what_does_the_same_is_the_same(name):
    assert not told_apart(*map(made, ALIKE[name]))


def not_compared(record):
    """The places that a record says it does not compare."""
    if isinstance(record, dict):
        inner = [name for item in record.values() for name in not_compared(item)]
        return inner + [name for name, item in record.items() if isinstance(item, dict) and NOT_COMPARED in item]
    return [name for item in record for name in not_compared(item)] if isinstance(record, list) else []


def test_what_cannot_be_compared_is_named_and_makes_no_difference(tmp_path):
    class Holder(tl.StepStrategy):
        def __init__(self):
            self._rho = 0.1
            self._lock, self._file, self._module = threading.Lock(), open(os.devnull), types
            self._random, self._state, self._generator = np.random.default_rng(), np.random.RandomState(), iter([1])
            self._thread, self._graph = threading.Thread(), [tf.keras.Input([2])]

        def step(self, objective, state):
            return objective(state.parameters)

    a, b = Holder(), Holder()
    b._random.normal(), b._state.normal()
    assert not told_apart(a, b)
    names = {"_lock", "_file", "_module", "_random", "_state"}
    assert names <= set(not_compared(plain(a))) and "_rho" not in not_compared(plain(a))
    b._rho = 0.2
    assert told_apart(a, b)
    a._file.close(), b._file.close()


PROCESS = [
    "import os\ndef value(x): return x * float(os.environ.get('RHO', '0.1'))",
    "from os import environ\ndef value(x): return x * float(environ.get('RHO', '0.1'))",
    "import sys\ndef value(x): return x * len(sys.argv)",
    "from sys import path\ndef helper(x): return x * len(path)\ndef value(x): return helper(x)",
    "import os\nclass A:\n    def __init__(self): self.env = os.environ\n    def step(self): return self.env['A']\nvalue = A()",
]


@pytest.mark.parametrize("source", PROCESS)
def test_what_is_the_process_is_named_and_not_read(source, monkeypatch):
    before = plain(made(source))
    monkeypatch.setenv("SECRET_OF_MINE", "abc")
    monkeypatch.setattr(sys, "argv", [*sys.argv, "SECRET_OF_MINE"])
    monkeypatch.syspath_prepend("/SECRET_OF_MINE")
    assert plain(made(source)) == before and "SECRET" not in json.dumps(before)
    assert "it is the process'" in json.dumps(before)
    assert told_apart(made(source), made(source.replace("x * ", "x + ").replace("['A']", "['B']")))  # a control


def test_cycles_end():
    source = """
    class Node:
        def __init__(self, value): self._other, self._me, self._list, self._value = None, self, [self], value
        def step(self): return Node
    a, b = Node(1), Node({})
    a._other, b._other = b, a
    a._list.append(a._list)
    value = a
    """
    assert not told_apart(made(source.format(2)), made(source.format(2)))
    assert told_apart(made(source.format(2)), made(source.format(3)))
    chain = "def f0(x): return x + {}\n" + "\n".join(f"def f{i}(x): return f{i - 1}(x)" for i in range(1, 30)) + "\nvalue = f29"
    assert told_apart(made(chain.format(1)), made(chain.format(2)))
    # More and more uses at each level: read once all the same.
    level = "def f{i}(x): return f{j}(x) + f{j}(x) + g{j}(x)\ndef g{i}(x): return f{j}(x)\n"
    levels = "".join(level.format(i=i, j=i - 1) for i in range(1, 15))
    wide = "def f0(x): return x + {}\ndef g0(x): return x\n" + levels + "value = f14"
    assert told_apart(made(wide.format(1)), made(wide.format(2)))
    assert len(json.dumps(plain(made(wide.format(1))))) < 1000


def test_too_deep_is_said():
    chain = "def f0(x): return x\n" + "\n".join(f"def f{i}(x): return f{i - 1}(x)" for i in range(1, 200)) + "\nvalue = f199"
    assert "nested too deep" in json.dumps(plain(made(chain)))


CACHES = """
class Cached(tl.StepStrategy):
    def __init__(self, rho=0.1):
        self._rho, self.traces, self._cache, self._log, self._table = rho, 0, {}, [], np.zeros(3)
        self._by_name = {}

    def init(self, parameters):
        self._start = parameters
        return {}

    def step(self, objective, state):
        self.traces += 1
        self._note(state)
        setattr(self, "_late", state.iteration)
        self.__dict__["_later"] = 3
        here = objective(state.parameters)
        return tl.Step(here.gradient * (1 + 0 * self._rho), at=here)

    def _note(self, state):
        self._cache["iteration"] = state.iteration
        self._log.append(len(self._log))
        self._table[len(self._log)] = 1.0
        self._by_name.setdefault("f", tf.function(lambda x: x))
        self.compiled = tf.function(lambda x: x + 1)

    @functools.cached_property
    def derived(self):
        return self._rho * 2

value = Cached()
"""


def test_what_training_sets_does_not_count():
    fresh, used = made(CACHES), made(CACHES)
    model = keras.Sequential([keras.Input([2]), keras.layers.Dense(1)])
    tl.Trainer(model, used, loss="mse").fit(np.ones([8, 2]), np.ones([8, 1]), verbose=0)
    assert used.traces and used._cache and used._table.any() and hasattr(used, "_late") and used.derived
    a, b = plain(fresh), plain(used)
    for name in ("traces", "_cache", "_log", "_table", "_start", "_by_name", "_late", "_later", "compiled"):
        assert b.pop(name) == {NOT_COMPARED: "set while training"}
        a.pop(name, None)
    assert a == b and b["_rho"] == 0.1  # a control: the rest is there
    assert told_apart(fresh, made(CACHES.replace("rho=0.1", "rho=0.2")))


HELPED = """
class Buffer:
    def __init__(self, size): self._size, self._kept = size, []
    def add(self, x): self._kept.append(x); self.last = x
    def resize(self, size): self._size = size
BUFFER = Buffer(2)
class A:
    def __init__(self): self._buffer = Buffer(2)
    def step(self, x):
        self._buffer.add(x)
        BUFFER.add(x)
value = A()
"""


def test_what_helpers_set_while_training_does_not_count():
    assert not told_apart(made(HELPED), made(HELPED + "value.step(1)"))
    for resized in ("value._buffer.resize(3)", "BUFFER.resize(3)"):
        assert told_apart(made(HELPED), made(HELPED + resized))


def test_names_that_code_sets_do_not_count():
    source = "n = {}\nseen = []\ndef value(x):\n    global n\n    n += 1\n    seen.append(n)\n    return x"
    assert not told_apart(made(source.format(1)), made(source.format(2)))
    assert set(not_compared(plain(made(source.format(1))))) == {"n", "seen"}
    source = """
def make(n):
    log = []
    def f(x):
        nonlocal n
        n += 1
        log.append(n)
        return x
    return f
value = make(1)
"""
    assert not told_apart(made(source), made(source + "value(3)"))


def test_modules_of_the_users_are_looked_into(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    linecache.clearcache()

    def users(by, importing):
        for name in ("users_helpers", "users_package", "users_package.inner"):
            sys.modules.pop(name, None)
        (tmp_path / "users_package").mkdir(exist_ok=True)
        (tmp_path / "users_package" / "__init__.py").write_text("")
        text = f"BY = {by}\nOTHER = {by}\ndef add(x): return x + BY\ndef other(x): return 3\n"
        (tmp_path / "users_helpers.py").write_text(text)
        (tmp_path / "users_package" / "inner.py").write_text(text)
        sys.dont_write_bytecode = True
        return plain(made(importing))

    for importing in (
        "import users_helpers\ndef value(x): return users_helpers.add(x)",
        "import users_package.inner\ndef value(x): return users_package.inner.BY",
        "from users_helpers import add\ndef value(x): return add(x)",
        "def value(x):\n    from users_helpers import add\n    return add(x)",
        "def value(x):\n    import users_helpers as h\n    return h.BY",
        "def value(x):\n    from users_package import inner\n    return inner.add(x)",
    ):
        assert users(1, importing) != users(2, importing) == users(2, importing), importing
    unused = "import users_helpers\ndef value(x): return users_helpers.other(x)"
    assert users(1, unused) == users(2, unused)


def test_installed_packages_are_named_for_their_versions():
    reader = Reader()
    reader.read(made("import pytest, json\ndef value(x): return pytest.approx(x) + np.mean(json.loads(x))"))
    assert {"_pytest", "numpy"} <= reader.packages and "json" not in reader.packages


def test_what_is_being_trained_is_told_elsewhere():
    model = keras.Sequential([keras.Input([2]), keras.layers.Dense(1)])
    holder = types.SimpleNamespace(model=model)
    before = Reader([model]).read(holder), plain(holder)
    model.set_weights([w + 1 for w in model.get_weights()])
    assert Reader([model]).read(holder) == before[0] and plain(holder) != before[1]


@pytest.mark.slow
def test_another_process_comes_to_the_same(tmp_path):
    """With other hashes, addresses and lines; a control tells that the numbers are compared at all."""
    sources = {name: source for name, (source, *_) in CHANGED.items()} | {"caches": CACHES}
    script = tmp_path / "other_process.py"
    script.write_text(
        f"import json, sys\nsys.path.insert(0, {str(own_code.HERE)!r})\nimport own_code\n"
        "from trainlab.runs.manifest.plain import plain\nfound = {}\n"
        "for name, source in json.load(open(sys.argv[1])).items():\n"
        "    found[name] = plain(own_code.run(source, 'elsewhere.py', '\\n' * 7, 'elsewhere')['value'])\n"
        "print(json.dumps(found))\n"
    )
    (tmp_path / "sources.json").write_text(json.dumps(sources))
    env = {**os.environ, "PYTHONHASHSEED": "7", "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, str(script), str(tmp_path / "sources.json")]
    printed = subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout
    theirs = json.loads(printed.splitlines()[-1])
    ours = {name: json.loads(json.dumps(plain(made(source)))) for name, source in sources.items()}
    assert {name for name in ours if ours[name] != theirs[name]} == set()
    assert len({json.dumps(record) for record in ours.values()}) > 40


def absolute(scale, y, p):
    return scale * keras.ops.mean(keras.ops.abs(y - p))


def weighted(weight):
    return lambda y, p: weight * keras.ops.mean(keras.ops.square(y - p))


class Scaled(keras.Loss):
    def __init__(self, scale):
        super().__init__(name="scaled")  # or Keras would count
        self.scale = scale

    def call(self, y, p):
        return self.scale * (y - p)


@pytest.mark.parametrize(
    "make", [weighted, Scaled, lambda scale: functools.partial(absolute, scale)], ids=["closure", "class", "partial"]
)
def test_losses_differ_by_what_they_hold(make):
    a, b, other = (plain(make(scale)) for scale in (2.0, 2.0, 3.0))
    assert a != other
    assert a == b
