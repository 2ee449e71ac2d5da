"""Reports written: every form, what is in it, what is escaped, and how long it takes."""

import html.parser
import json
import pathlib
import re
import subprocess
import sys
import time
import tomllib

import pytest
from reporting import CASES, begin, config, end, epoch, fifty, four, learned, one, resumed, written
from sources import ROOT

import trainlab as tl
from trainlab.reports import markdown, write
from trainlab.reports.drawing.panels import panels_of
from trainlab.reports.metrics import best, direction, leading, metrics_of, ranking
from trainlab.reports.reading.run import read_runs

EVIL = "<script>alert(1)</script>"
SUFFIXES = (".html", ".md", ".png", ".pdf", ".svg")


class Page(html.parser.HTMLParser):
    """Tags, attributes and text of a page, and whether its tags are closed in order."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.addresses, self.text, self._open = [], [], [], []
        self.feed(path.read_text(encoding="utf-8"))
        assert self._open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [
            value for name, value in attributes if name in ("src", "href", "action", "data", "srcset", "xlink:href")
        ]
        assert not any(name.startswith("on") for name, _ in attributes)
        if tag not in ("meta", "link", "input", "path", "line", "circle", "rect"):
            self._open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)

    def handle_endtag(self, tag):
        if tag not in ("path", "line", "circle", "rect"):
            assert self._open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def says(self, text):
        return text in " ".join("".join(self.text).split())


def sections(path):
    return {part.splitlines()[0]: part for part in path.read_text().split("\n## ")[1:]}


@pytest.mark.parametrize("case", CASES)
def test_a_page_is_whole_and_asks_for_nothing(case, tmp_path):
    path = write(CASES[case](tmp_path / "runs"), tmp_path / "report.html")
    page = Page(path)
    assert "script" not in page.tags and "img" not in page.tags and set(page.addresses) == {"data:,"}
    assert "default-src 'none'" in path.read_text() and "url(" not in re.sub(r"url\(#c\d+\)", "", path.read_text())
    assert (
        page.says("Results")
        and page.says("updates")
        and page.tags.count("figure") == len(panels_of(read_runs(sorted_runs(tmp_path))))
    )


def sorted_runs(tmp_path):
    return sorted(path for path in (tmp_path / "runs").iterdir())


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("case", ["one", "gaps"])
def test_every_form_is_written(case, suffix, tmp_path):
    runs = CASES[case](tmp_path / "runs")
    path = tl.report(runs if case == "gaps" else str(runs[0]), str(tmp_path / f"report{suffix.upper()}"))
    starts = {".html": b"<!DOCTYPE html>", ".md": b"# ", ".png": b"\x89PNG", ".pdf": b"%PDF", ".svg": b"<?xml"}
    assert path.read_bytes().startswith(starts[suffix]) and path == tmp_path / f"report{suffix.upper()}"
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["runs", path.name])  # and nothing beside


def test_what_a_page_says_of_one_run(tmp_path):
    page = Page(write(one(tmp_path / "runs"), tmp_path / "a.html", title="My title"))
    for text in ("My title", "0.96", "run.epochs", "2026-11-27", "machine", "2.21.0", "690"):
        assert page.says(text), text
    assert not page.says("How they differ")


def test_what_a_page_says_of_several(tmp_path):
    path = write(four(tmp_path / "runs"), tmp_path / "a.html")
    page = Page(path)
    assert page.says("How they differ") and page.says("@heun()")
    assert not page.says("run.epochs") and not page.says("run.seed")  # where they agree
    for text in ("4 runs: 4 finished", "575", "1,150", "2,300", "4,600"):  # evaluations of the gradient
        assert page.says(text), text
    same = [written(tmp_path / name, [begin(), *learned(3), end(69, 1.0)], config(seed=0)) for name in ("a", "b")]
    assert Page(write(same, tmp_path / "same.html")).says("All settings that are known are the same.")


def test_stopped_and_resumed(tmp_path):
    said = sections(write(resumed(tmp_path / "runs"), tmp_path / "a.md"))["Stopped and resumed"]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in said.splitlines()[4:]]
    assert [(row[2], row[3], row[5]) for row in rows] == [
        ("the beginning", "207", "killed"),
        ("update 161", "345", "signal SIGTERM"),
        ("update 345", "490", "KeyboardInterrupt"),
        ("update 490", "690", "finished"),
    ]


def test_what_was_left_out_and_what_an_error_said(tmp_path):
    lines = [begin(), epoch(0, 9, 1.0, loss=1.0, skipped=2.0), epoch(1, 18, 2.0, loss=1.0, skipped=1.0)]
    lines[1]["skipped"], lines[2]["skipped"] = 4, 6  # not finite, so far in this session
    lines += [
        begin(18, 2, resumed=True),
        end(20, 1.0, "NonFiniteError") | {"message": "update 21: its loss is nan", "skipped": 1},
    ]
    said = sections(write(written(tmp_path / "runs" / "a", lines), tmp_path / "a.md"))
    assert "| a | 7 | 3 |" in said["Left out"] and "NonFiniteError: update 21: its loss is nan" in said["Stopped and resumed"]
    assert Page(write(tmp_path / "runs" / "a", tmp_path / "a.html")).says("updates left out, not finite")


@pytest.mark.parametrize(
    "text",
    [
        EVIL,
        '"><img src=x onerror=alert(1)>',
        "{{ 7 * 7 }}{% raw %}",
        "a|b\n# c",
        "</style></title><b>",
        "$\\frac$ _x_",
        "\0\x1b\ud800é",
    ],
)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_run_that_is_called_anything_is_text(tmp_path, suffix, text):
    lines = [begin(host=text, device=text, strategy=text, versions={text: text}, settings={text: text}, model=text)]
    lines += [
        epoch(0, 1, 0.1, loss=1.0, **{text: 0.5}),
        epoch(1, 2, 0.2, loss=0.5, **{text: 0.7, f"val_{text}": 0.2}),
        end(2, 0.2, text),
    ]
    for k, name in enumerate(("a", re.sub(r"[/\0\ud800]", "-", text) or "b")):
        written(tmp_path / "runs" / name, lines, f"run.name = {text!r}\nrun.k = {k}\n", {text: 1.0})
    path = write(sorted_runs(tmp_path), tmp_path / f"a{suffix}", title=text)
    if suffix != ".html":
        assert path.stat().st_size > 100
        return
    page = Page(path)
    assert not {"script", "img", "b"} & set(page.tags) and page.tags.count("title") > 1 and "49" not in page.text
    assert page.tags.count("h1") == 1 and (page.says(" ".join(text.split())) or not text.isprintable())


def test_markdown_is_text_too(tmp_path):
    run = written(tmp_path / "runs" / "a|b", [begin(host="<b>|`x`"), *learned(2)], f"run.note = '{EVIL}'\n")
    text = write(run, tmp_path / "a.md").read_text()
    assert EVIL not in text and "\\<script\\>" in text and "a\\|b" in text
    for part in text.split("\n\n"):
        if part.startswith("|"):  # every line of a table has as many cells
            assert len({len(re.findall(r"(?<!\\)\|", line)) for line in part.splitlines()}) == 1
    assert markdown.escaped("_x_ x_y *a* [b](c)") == "\\_x\\_ x_y \\*a\\* \\[b\\](c)"


def test_fifty_runs_take_less_than_ten_seconds(tmp_path):
    """Of processor time, with twenty metrics each; their number is that of the best named."""
    runs = fifty(tmp_path / "runs")
    began = time.process_time()
    path = write(runs, tmp_path / "a.html")
    assert time.process_time() - began < 10 and path.stat().st_size < 5_000_000
    page = Page(path)
    assert (
        page.says("45 others (in colour: the best by val_accuracy)") and page.says("40 more") and page.says("The best run first.")
    )


@pytest.mark.slow
def test_fifty_long_runs_too(tmp_path):
    runs = fifty(tmp_path / "runs", epochs=2000)
    began = time.process_time()
    path = write(runs, tmp_path / "a.html")
    assert time.process_time() - began < 30 and path.stat().st_size < 20_000_000


@pytest.mark.parametrize(
    ("runs", "output", "raises", "line"),
    [
        (["runs/a"], "a.txt", ValueError, r"output='a.txt': a report is written as one of .html, .md, .png, .pdf, .svg: give"),
        (["runs/a"], "a", ValueError, r"output='a': a report is written as one of"),
        (["runs/a"], "no/a.html", FileNotFoundError, r"there is no directory no; make it first"),
        (["runs/a"], "folder.html", IsADirectoryError, r"is a directory; give the name of a file"),
        ([], "a.html", ValueError, r"runs is empty: give at least one directory of a run"),
        (["runs/b"], "a.html", FileNotFoundError, r"runs/b: there is no such directory"),
        (["runs"], "a.html", ValueError, r"runs: holds no run .*; there are 1 in it: give runs/\*, or runs/a"),
        (["runs/a", 3], "a.html", TypeError, r"runs: 3 is no path; give directories of runs"),
        ("runs/a", 3, TypeError, r"output must be a path, such as 'report.html', not 3"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(tmp_path, monkeypatch, runs, output, raises, line):
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "runs" / "a", [begin(), *learned(2)])
    (tmp_path / "folder.html").mkdir()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(raises, match=line) as error:
        write(runs, output)
    assert "\n" not in str(error.value) and sorted(tmp_path.rglob("*")) == before


def test_an_old_report_is_replaced_and_a_failed_one_leaves_it(tmp_path, monkeypatch):
    runs = one(tmp_path / "runs")
    path = write(runs, tmp_path / "a.html", title="old")
    assert Page(write(runs, path, title="new")).says("new")
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(ModuleNotFoundError, match=r"needs jinja2: pip install 'trainlab\[report\]'"):
        write(runs, path, title="newest")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ModuleNotFoundError, match=r"needs matplotlib: pip install 'trainlab\[report\]'"):
        write(runs, tmp_path / "a.png")
    assert (
        Page(path).says("new")
        and not Page(path).says("newest")
        and sorted(p.name for p in tmp_path.iterdir()) == ["a.html", "runs"]
    )
    assert write(runs, tmp_path / "a.md").exists()  # which needs neither


def test_reports_need_no_tensorflow(tmp_path):
    [run] = one(tmp_path / "runs")
    program = """
        import sys, trainlab as tl
        assert "trainlab.reports" not in sys.modules
        tl.report(sys.argv[1], sys.argv[2])
        assert not {"tensorflow", "keras", "matplotlib", "gin"} & set(sys.modules)
        import jinja2
    """
    command = [sys.executable, "-c", "\n".join(line.strip() for line in program.splitlines()), str(run), str(tmp_path / "a.html")]
    subprocess.run(command, check=True)


def test_what_a_page_is_made_of_is_in_the_wheel():
    from trainlab.reports import page

    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    folder = pathlib.Path(page.__file__).parent
    shipped = {file for pattern in settings["trainlab.reports.page"] for file in folder.glob(pattern)}
    others = {file for file in folder.iterdir() if file.is_file() and file.suffix not in (".py", ".pyc")}
    assert others == shipped and len(others) == 4


def test_runs_without_an_epoch(tmp_path):
    run = written(tmp_path / "runs" / "a", [begin()])
    for suffix in SUFFIXES:
        assert write([run], tmp_path / f"a{suffix}").stat().st_size > 100
    assert Page(tmp_path / "a.html").says("No epoch has ended yet.")


def runs_with(tmp_path, directions=(), **columns):
    lines = [
        begin(directions=dict(directions)),
        *(
            epoch(i, i + 1, i + 1.0, **dict(zip(columns, row, strict=True)))
            for i, row in enumerate(zip(*columns.values(), strict=True))
        ),
    ]
    return read_runs([written(tmp_path / f"r{len(list(tmp_path.iterdir()))}", lines)])


DOWN = (
    "loss val_loss output_loss mean_absolute_error val_mse kl_divergence binary_crossentropy perplexity false_positives dice_loss"
)
UP = "accuracy val_acc sparse_categorical_accuracy auc precision recall_1 f1_score mean_io_u mean_iou r2_score cosine_similarity"
UP += " top_k_categorical_accuracy pearson_correlation"
UNKNOWN = "temperature learning_rate skipped loss_scale spread step_error val_step_error rejected gradient_evaluations"


@pytest.mark.parametrize(("names", "way"), [(DOWN, "down"), (UP, "up"), (UNKNOWN, None)])
def test_which_way_is_better_by_name(names, way):
    assert {name: direction(name) for name in names.split()} == dict.fromkeys(names.split(), way)


def test_what_the_run_says_comes_before_the_name(tmp_path):
    runs = runs_with(tmp_path, {"error": "up", "mine": "down"}, error=[1.0, 3.0, 2.0], mine=[1.0, 0.5, 0.5])
    assert direction("val_error", runs) == "up" and direction("mine", runs) == "down"
    assert best(runs[0], "error", "up") == (3.0, 2) and best(runs[0], "mine", "down") == (0.5, 2)  # the first of two
    assert best(runs[0], "mine", None) is None and best(runs[0], "none", "up") is None


def test_the_best_ignores_gaps(tmp_path):
    nan = float("nan")
    [run] = runs_with(tmp_path, loss=[nan, 2.0, nan, 1.0, nan], val_loss=[nan] * 5)
    assert best(run, "loss", "down") == (1.0, 4) and best(run, "val_loss", "down") is None


def test_runs_are_ranked_by_validation(tmp_path):
    runs = [runs_with(tmp_path, accuracy=[a], val_accuracy=[v], loss=[0.1])[0] for a, v in ((0.9, 0.1), (0.1, 0.9), (0.5, 0.5))]
    assert leading(runs) == ("val_accuracy", "up") and ranking(runs) == [1, 2, 0]
    assert [metric.name for metric in metrics_of(runs)] == ["loss", "accuracy"]
    assert leading(runs_with(tmp_path, thing=[1.0])) is None


def test_a_further_run_of_another_kind_has_dashes(tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "metrics.jsonl").write_text(json.dumps({"epoch": 1, "step": 3, "mae": 0.5}) + "\n")
    text = sections(write([*one(tmp_path / "runs"), other], tmp_path / "a.md"))["Results"]
    [line] = [line for line in text.splitlines() if line.startswith("| other")]
    assert line.count("–") >= 5 and "0.5" in line
    page = Page(write([*sorted_runs(tmp_path), other], tmp_path / "a.html"))
    assert page.says("Without a timeline, so without seconds and evaluations: other")
