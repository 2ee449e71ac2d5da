import types

import pytest
from config_files import HEUN, write

import trainlab
from trainlab.cli.configs import gin_internals
from trainlab.cli.configs.names import NotKnown, full_name, short_name
from trainlab.cli.configs.reading import load

pytestmark = pytest.mark.usefixtures("clean")


@pytest.mark.parametrize(
    "how, name",
    [
        ("import pkg_{}.inner", "pkg_{}.inner.Own"),
        ("from pkg_{} import inner", "inner.Own"),
        ("import pkg_{}.inner as mine", "mine.Own"),
        ("from __gin__ import dynamic_registration\nimport pkg_{}.inner", "pkg_{}.inner.Own"),
        ("import pkg_{}", "pkg_{}.inner.Own"),
    ],
)
def test_an_own_module_needs_no_decorators(tmp_path, how, name, request):
    tag = f"t{request.node.callspec.indices['how']}"
    own = "import trainlab as tl\nclass Own(tl.Heun):\n  def __init__(self, a=1):\n    self.a = a\n"
    write(tmp_path / "there" / f"pkg_{tag}" / "inner.py", own)
    write(tmp_path / "there" / f"pkg_{tag}" / "__init__.py", f"from pkg_{tag} import inner\n")
    how, name = how.format(tag), name.format(tag)
    file = write(tmp_path / "there" / "c.gin", f"{how}\ninclude '{HEUN}'\nrun.strategy = @{name}()\n{name}.a = 4\n")
    strategy = load([file]).build().strategy
    assert repr(strategy) == "Own(a=4)" and isinstance(strategy, trainlab.Heun)


def test_a_module_in_the_current_directory_and_one_with_gin_decorators(tmp_path):
    write(
        tmp_path / "decorated.py",
        "import gin, trainlab\n@gin.register\ndef own_model(input_shape, num_classes, width=3):\n"
        "  return trainlab.models.mlp(input_shape, num_classes, (width,))\nimport trainlab.models\n",
    )
    file = write(
        tmp_path / "elsewhere" / "c.gin", f"include '{HEUN}'\nimport decorated\nrun.model = @own_model\nown_model.width = 5"
    )
    assert load([file]).build().model((2,), 4).count_params() == 2 * 5 + 5 + 5 * 4 + 4


def test_a_name_is_found_by_its_end_or_refused_with_a_hint():
    assert full_name("trainlab.Heun", {}) == full_name("Heun", {}) == "trainlab.Heun"
    assert full_name("keras.optimizers.SGD", {}) == full_name("optimizers.SGD", {}) == "keras.optimizers.SGD"
    for name, message in [
        ("SGD", "ambiguous: write keras.optimizers.SGD or trainlab.SGD"),
        ("adam", "did you mean Adam?"),
        ("nothing_like_it", "needs `import my_module` above it"),
        ("gin.macro", "unknown name 'gin.macro'"),
    ]:
        with pytest.raises(NotKnown, match=message):
            full_name(name, {})


def test_a_name_of_an_import_is_registered_when_it_is_first_met():
    imports = {"for_test_names": types.SimpleNamespace(Fancy=lambda a=1: a, number=3)}
    assert "for_test_names.Fancy" not in gin_internals.registered()
    assert full_name("for_test_names.Fancy", imports) == "for_test_names.Fancy"
    assert "for_test_names.Fancy" in gin_internals.registered()
    with pytest.raises(NotKnown, match=r"^unknown name 'for_test_names.Fanzy'; did you mean for_test_names.Fancy\?$"):
        full_name("for_test_names.Fanzy", imports)
    with pytest.raises(NotKnown, match="^unknown name 'for_test_names.number'"):  # it is there, but nothing to call
        full_name("for_test_names.number", imports)


def test_ours_are_short_and_others_as_in_python():
    assert short_name("trainlab.Heun") == "Heun"
    assert short_name("trainlab.SGD") == "trainlab.SGD"  # Keras has one too
    assert short_name("keras.optimizers.Adam") == "keras.optimizers.Adam"
