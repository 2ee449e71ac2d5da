"""Results on disk: believed as they were written, found out again where they are not."""

import json
import warnings

import pytest

from trainlab.runs import sealed

VALUE = {"points": [{"updates": 9, "value": 0.25, "loss": None}], "end": "finished"}
# By what somebody has done to a file.
CHANGES = {
    "a number": lambda text: text.replace("0.25", "0.15"),
    "a name": lambda text: text.replace("finished", "used up"),
    "one more point": lambda text: text.replace("}]", '}, {"updates": 10, "value": 0, "loss": 0}]'),
    "cut": lambda text: text[: len(text) // 2],
    "empty": lambda text: "",
    "a list": lambda text: f"[{text}]",
    "the digest": lambda text: text.replace('"digest": "', '"digest": "0'),
    "no digest that could be": lambda text: json.dumps({**json.loads(text), "digest": None}),
}


def saved(tmp_path):
    path = tmp_path / "result.json"
    sealed.save(path, VALUE)
    return path


@pytest.mark.parametrize("change", CHANGES)
def test_what_was_changed_is_not_believed(change, tmp_path):
    path = saved(tmp_path)
    text = path.read_text()
    path.write_text(CHANGES[change](text))
    assert path.read_text() != text
    with pytest.warns(UserWarning, match=r"result.json: is not what was written there; it is found out again") as told:
        assert sealed.load(path) is None
    assert len(told) == 1


def test_what_was_not_is_and_nothing_is_said(tmp_path):
    path = saved(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert sealed.load(path) == VALUE
        path.write_text(json.dumps(json.loads(path.read_text()), indent=2))  # the same, written otherwise
        assert sealed.load(path) == VALUE
        path.write_text(json.dumps(VALUE))  # of a version that wrote no digest
        assert sealed.load(path) == VALUE
        assert sealed.load(tmp_path / "nosuch.json") is None
        sealed.save(path, {"digest": 0.5})  # a metric of this name
        assert sealed.load(path) == {"digest": 0.5}
