from trainlab.cli.errors import one_line


def test_one_line():
    assert one_line(KeyError("a b")) == "a b"
    assert one_line(ValueError("")) == "ValueError"
    assert one_line(ValueError("\n a\n  b \n\n details")) == "a b"
    assert one_line(ValueError("a\n  In call to configurable 'mlp' (<function>)")) == "a"
