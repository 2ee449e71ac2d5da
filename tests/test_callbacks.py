import datetime
import json
import pathlib
import warnings

import keras
import numpy as np
import pytest

from trainlab.callbacks import JsonLines, RecordFile, json_key


def records(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_record_an_epoch_with_the_updates_so_far(tmp_path):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    x, y = np.ones((6, 2)), np.ones((6, 1))
    path = tmp_path / "metrics.jsonl"
    history = model.fit(x, y, batch_size=2, epochs=2, verbose=0, validation_data=(x, y), callbacks=[JsonLines(path)])
    first, second = records(path)
    assert (first["epoch"], first["step"], second["epoch"], second["step"]) == (1, 3, 2, 6)
    assert [first["loss"], second["loss"]] == history.history["loss"]
    assert list(first) == ["epoch", "step", "loss", "val_loss"]


def test_every_line_is_json_whatever_the_value(tmp_path):
    callback = JsonLines(tmp_path / "metrics.jsonl")
    callback.write({"nan": float("nan"), "inf": np.float32("inf"), "vector": np.array([1.0, np.nan]), "n": np.int64(3)})
    callback.write({"tensor": keras.ops.ones(()), "text": "adam", "none": None})
    assert records(callback.path) == [
        {"nan": None, "inf": None, "vector": [1.0, None], "n": 3},
        {"tensor": 1.0, "text": "adam", "none": None},
    ]


class Odd:
    def __str__(self):
        return 1000 * "odd"

    def __array__(self, dtype=None, copy=None):
        raise RuntimeError


def test_what_json_does_not_hold_is_written_as_text(tmp_path):
    callback = JsonLines(tmp_path / "metrics.jsonl")
    when = datetime.datetime(2026, 1, 2, 3)
    callback.write({"when": when, "days": [when.date(), np.datetime64("2026-01-02")], "took": np.timedelta64(3, "D")})
    callback.write({"complex": 1 + 2j, "set": {1}, "path": pathlib.Path("a/b"), "odd": Odd(), "ragged": ((1, 2), (3,))})
    callback.write({"long": np.longdouble(0.5), "dates": np.array(["2026-01-02"], "datetime64[D]"), 3: {np.int64(4): object}})
    assert records(callback.path) == [
        {"when": "2026-01-02 03:00:00", "days": ["2026-01-02", "2026-01-02"], "took": "3 days, 0:00:00"},
        {"complex": "(1+2j)", "set": "{1}", "path": "a/b", "odd": (1000 * "odd")[:500], "ragged": [[1, 2], [3]]},
        {"long": 0.5, "dates": ["2026-01-02"], "3": {"4": "<class 'object'>"}},
    ]


def written(path, restart=False, epochs=range(1, 6), before=""):
    """A file of five epochs, and the state of the callback after three."""
    path.write_text(before)
    callback, state = JsonLines(path, restart), None
    for epoch in epochs:
        callback.write({"epoch": epoch, "step": 10 * epoch, "loss": 1 / epoch})
        state = callback.get_state() if epoch == 3 else state
    return json.loads(json.dumps(state))


def resumed(path, state, *records, restart=False):
    callback = JsonLines(path, restart)
    callback.set_state(state)
    assert callback.get_state() == state
    for record in records or ({"epoch": 4, "step": 40, "again": 1},):
        callback.write(record)
    return callback


def numbers(path):
    return [(record.get("epoch"), "again" in record) for record in records(path)]


GOES_ON = [(1, False), (2, False), (3, False), (4, True)]


@pytest.mark.parametrize("restart", [False, True])
def test_a_resume_drops_the_records_after_it_and_says_nothing(tmp_path, restart, recwarn):
    state = written(tmp_path / "a", restart)
    resumed(tmp_path / "a", state, restart=restart)
    assert numbers(tmp_path / "a") == GOES_ON and (tmp_path / "a").read_bytes().count(b"\n") == 4
    assert not [w for w in recwarn if "changed" in str(w.message)]


def line_ends(ends):
    return lambda content: content.replace(b"\n", ends)


CHANGES = {
    "CRLF": line_ends(b"\r\n"),
    "CR": line_ends(b"\r"),
    "CRLF, no last newline": lambda content: content.replace(b"\n", b"\r\n")[:-2],
    "blank lines": line_ends(b"\n\n"),
    "other spaces": lambda content: content.replace(b": ", b":"),
    "values rounded": lambda content: content.replace(b"0.3333333333333333", b"0.3"),
    "byte order mark": lambda content: b"\xef\xbb\xbf" + content,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_file_that_was_converted_keeps_exactly_the_records_before_the_resume(tmp_path, change):
    path = tmp_path / "metrics.jsonl"
    state = written(path)
    path.write_bytes(change(path.read_bytes()))
    with pytest.warns(UserWarning, match=r"metrics.jsonl: changed since the checkpoint; 3 of its records stay, 2 written after"):
        resumed(path, state)
    content = path.read_bytes().removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n").decode()
    assert [json.loads(line)["epoch"] for line in content.splitlines() if line] == [1, 2, 3, 4]


@pytest.mark.parametrize("change", ["CRLF", "CRLF, no last newline"])
def test_the_state_of_an_older_version_is_understood(tmp_path, change, recwarn):
    path = tmp_path / "metrics.jsonl"
    written(path)
    state = {"size": path.read_bytes().index(b'{"epoch": 4')}
    resumed(path, state)
    assert numbers(path) == GOES_ON and not [w for w in recwarn if "changed" in str(w.message)]
    path.unlink()
    written(path)
    path.write_bytes(CHANGES[change](path.read_bytes()))
    with pytest.warns(UserWarning, match="3 of its records stay, 2 written after it dropped"):
        resumed(path, state)
    assert numbers(path) == GOES_ON


def lines_of(*chosen):
    def change(content):
        lines = content.splitlines(keepends=True)
        return b"".join(lines[i - 1] if i else b"# a note\n" for i in chosen)

    return change


@pytest.mark.parametrize(
    "chosen, kept",
    [
        ([2, 3, 4, 5], [2, 3, 4]),  # the first one
        ([1, 3, 5], [1, 3, 4]),
        ([1, 2, 4, 5], [1, 2, 4]),  # the very last before the checkpoint
        ([4, 5], [4]),
        ([1], [1, 4]),
        ([1, 1, 2, 3, 4, 5], [1, 1, 2, 3, 4]),  # one doubled
        ([1, 2, 2, 3, 3, 4], [1, 2, 2, 3, 4]),
        ([0, 1, 2, 0, 3, 4, 0, 5, 0], [0, 1, 2, 0, 3, 0, 0, 4]),  # notes stay, wherever they are
    ],
)
def test_a_file_edited_by_hand_loses_only_records_after_the_resume(tmp_path, chosen, kept):
    path = tmp_path / "metrics.jsonl"
    state = written(path)
    path.write_bytes(lines_of(*chosen)(path.read_bytes()))
    with pytest.warns(UserWarning, match="changed since the checkpoint"):
        resumed(path, state)
    lines = path.read_text().splitlines()
    assert [0 if line.startswith("#") else json.loads(line)["epoch"] for line in lines] == kept
    assert "again" in lines[-1] and sum("again" in line for line in lines) == 1


@pytest.mark.parametrize("chosen", [[1, 2, 3], [1, 2, 3, 4], [1, 2, 3, 3, 4, 5], [1, 2, 3, 4, 5, 4, 5]])
def test_what_stands_after_the_resume_is_nobodys_loss(tmp_path, chosen, recwarn):
    path = tmp_path / "metrics.jsonl"
    state = written(path)
    path.write_bytes(lines_of(*chosen)(path.read_bytes())[: -1 if len(chosen) > 3 else None])
    resumed(path, state)
    assert numbers(path) == GOES_ON and not [w for w in recwarn if "changed" in str(w.message)]


def test_a_last_line_without_its_end_gets_it_back(tmp_path):
    path = tmp_path / "metrics.jsonl"
    state = written(path)
    path.write_bytes(lines_of(1, 2, 3)(path.read_bytes())[:-1])
    with pytest.warns(UserWarning, match="3 of its records stay, 0 written after it dropped"):
        resumed(path, state)
    assert numbers(path) == GOES_ON


def test_records_of_an_earlier_run_in_the_file_stay(tmp_path):
    before = "".join(json.dumps({"epoch": epoch, "step": 10 * epoch}) + "\n" for epoch in range(1, 10))
    for change in (lambda content: content, CHANGES["CRLF"], lines_of(*range(2, 15))):
        path = tmp_path / "metrics.jsonl"
        state = written(path, before=before)
        content = path.read_bytes()
        path.write_bytes(change(content))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            resumed(path, state)
        first = 2 if change(content) != content and b"\r" not in change(content) else 1
        assert [epoch for epoch, _ in numbers(path)] == [*range(first, 10), 1, 2, 3, 4]


def test_the_record_of_the_test_metrics_is_written_once(tmp_path):
    path = tmp_path / "metrics.jsonl"
    written(path)
    callback = JsonLines(path)
    state = callback.get_state()
    callback.write({"epoch": 5, "step": 50, "test_loss": 0.5})
    for change in (lambda content: content, CHANGES["CRLF"], lambda content: content[:-1], lines_of(2, 3, 4, 5, 6)):
        path.write_bytes(change(path.read_bytes()))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            resumed(path, state, {"epoch": 5, "step": 50, "test_loss": 0.5})
        assert ["test_loss" in record for record in records(path)][-2:] == [False, True]
        assert [record["epoch"] for record in records(path)][-3:] == [4, 5, 5]


def test_half_a_record_is_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    state = written(path)
    path.write_bytes(path.read_bytes()[:-10])  # killed while it was written
    resumed(path, state)
    assert numbers(path) == GOES_ON


@pytest.mark.parametrize("line", [4, 5])
def test_a_damaged_record_after_the_resume_is_dropped(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    state = written(path)
    lines = path.read_bytes().splitlines(keepends=True)
    lines[line - 1] = lines[line - 1].replace(b'"step"', b'"st\xffp')
    path.write_bytes(b"".join(lines))
    resumed(path, state)
    assert numbers(path) == GOES_ON


def test_a_record_never_joins_the_line_before(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"epoch": 1}')
    JsonLines(path).write({"epoch": 2})
    assert [record["epoch"] for record in records(path)] == [1, 2]
    (tmp_path / "empty").write_text("")
    JsonLines(tmp_path / "empty").write({"epoch": 1})
    assert (tmp_path / "empty").read_text() == '{"epoch": 1}\n'


def test_a_file_that_is_gone_or_that_nobody_can_read_is_begun_anew_and_kept(tmp_path):
    path = tmp_path / "metrics.jsonl"
    state = written(path)
    path.unlink()
    with pytest.warns(UserWarning, match="metrics.jsonl: removed since the checkpoint; begun anew, without what it held"):
        resumed(path, state)
    assert numbers(path) == [(4, True)]
    for garbage in (b"\x00\x01\xff garbage", json.dumps([{"epoch": 1}], indent=1).encode()):
        path.write_bytes(garbage)
        with pytest.warns(UserWarning, match=r"no record can be read; kept as metrics.jsonl.\d, and begun anew"):
            resumed(path, state)
        assert numbers(path) == [(4, True)]
    assert (tmp_path / "metrics.jsonl.1").read_bytes() == b"\x00\x01\xff garbage"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["metrics.jsonl", "metrics.jsonl.1", "metrics.jsonl.2"]


def test_restart_drops_what_the_file_held_unless_the_run_goes_on(tmp_path):
    path = tmp_path / "metrics.jsonl"
    written(path)
    callback = JsonLines(path, restart=True)
    assert callback.get_state()["records"] == 0 and len(records(path)) == 5  # nothing is written yet
    callback.write({"epoch": 1, "step": 1})
    callback.write({"epoch": 2, "step": 2})
    assert [record["epoch"] for record in records(path)] == [1, 2] and callback.get_state()["records"] == 2


def test_a_place_is_found_without_reading_the_file_again(tmp_path):
    reads = []

    def key(line):
        reads.append(line)
        return json_key(line)

    file = RecordFile(tmp_path / "a", key)
    for epoch in range(5):
        with open(file.path, "a") as out:
            out.write(json.dumps({"epoch": epoch}) + "\n")
        assert file.place() == RecordFile(file.path, json_key).place()
    assert len(reads) == 5
    file.path.write_text('{"epoch": 7}\n')  # shorter: another file
    assert file.place()["last"][0] == 7
