"""Pages as a browser shows them: no error, nothing asked for, every figure drawn, and the choice of the axis works."""

import contextlib
import os
import re
import shutil
import socket
import subprocess
import threading

import pytest
from reporting import CASES, begin, config, end, epoch, written

from trainlab.reports import write

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chrome")
pytestmark = [pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here"), pytest.mark.slow]
SCRIPT = "<script>document.title = 'ran'</script>"


def browse(path, tmp_path, *arguments):
    """What the browser makes of a page, and the messages of its console."""
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr", "--v=0"]
    options += [f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1200,1600", *arguments, path.as_uri()]
    result = subprocess.run([CHROMIUM, *options], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return result.stdout, [line for line in result.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.parametrize("case", CASES)
def test_a_report_opens_without_an_error(case, tmp_path):
    path = write(CASES[case](tmp_path / "runs"), tmp_path / "report.html")
    page, console = browse(path, tmp_path, "--dump-dom")
    assert console == []
    assert page.count("<figure>") == path.read_text().count("<figure>") > 0 and page.rstrip().endswith("</html>")
    browse(path, tmp_path, f"--screenshot={tmp_path / 'report.png'}")
    assert (tmp_path / "report.png").stat().st_size > 20_000  # something is drawn


def test_what_is_forbidden_would_be_seen_and_is_not_done(tmp_path):
    """The control: a page to which somebody added a script and a picture from elsewhere."""
    server = socket.create_server(("127.0.0.1", 0))
    asked = []

    def serve():
        with contextlib.suppress(OSError):  # it is closed at the end
            while True:
                connection, address = server.accept()
                asked.append(address)
                connection.close()

    threading.Thread(target=serve, daemon=True).start()
    address = f"http://127.0.0.1:{server.getsockname()[1]}"
    path = write(CASES["one"](tmp_path / "runs"), tmp_path / "report.html")
    text = path.read_text().replace("<main>", f'<main>{SCRIPT}<img src="{address}/a.png"><script src="{address}/b.js"></script>')
    path.write_text(text)
    page, console = browse(path, tmp_path, "--dump-dom")
    assert len(console) >= 3 and all("Content Security Policy" in line for line in console)
    assert "<title>heun</title>" in page and asked == []
    (tmp_path / "bare.html").write_text(re.sub(r"<meta http-equiv.*", "", text))
    page, _ = browse(tmp_path / "bare.html", tmp_path, "--dump-dom")
    assert "<title>ran</title>" in page and asked  # without the policy both are done
    server.close()


def test_names_out_of_files_are_text(tmp_path):
    evil = [SCRIPT, '"><img src=x onerror="document.title=1">', "<b>x</b>"]
    lines = [begin(host=evil[0], device=evil[1], strategy=evil[2], versions={evil[0]: evil[1]})]
    lines += [epoch(i, i + 1, i + 1.0, loss=1.0 / (i + 1), **{evil[1]: 0.5, f"val_{SCRIPT}": 0.1}) for i in range(3)] + [
        end(3, 3.0, evil[0])
    ]
    names = ["<script>alert(1)<", '"><img src=x onerror=alert(1)>']
    runs = [written(tmp_path / "runs" / name, lines, config(k=k, note=evil[k])) for k, name in enumerate(names)]
    page, console = browse(write(runs, tmp_path / "a.html", title=SCRIPT), tmp_path, "--dump-dom")
    assert console == [] and "<title>ran" not in page and "<script" not in page and "<img" not in page and "<b>" not in page
    assert "&lt;script&gt;alert(1)&lt;" in page


def pixels(path, tmp_path, name, *arguments):
    from matplotlib.image import imread

    browse(path, tmp_path, f"--screenshot={tmp_path / name}", *arguments)
    return imread(tmp_path / name)


def test_the_axis_is_chosen_without_a_script_and_the_dark_is_dark(tmp_path):
    path = write(CASES["four"](tmp_path / "runs"), tmp_path / "a.html")
    other = tmp_path / "b.html"
    other.write_text(
        path.read_text()
        .replace('id="by-updates" checked', 'id="by-updates"')
        .replace('id="by-seconds"', 'id="by-seconds" checked')
    )
    light, seconds = pixels(path, tmp_path, "a.png", "--blink-settings=preferredColorScheme=1"), pixels(other, tmp_path, "b.png")
    assert (light[:1500] != seconds[:1500]).any()
    dark = pixels(path, tmp_path, "c.png", "--blink-settings=preferredColorScheme=0")
    assert light[5, 5, :3].mean() > 0.95 and dark[5, 5, :3].mean() < 0.15
    # Text is light on it, and the curves are there.
    assert (dark[..., :3].mean(axis=-1) > 0.8).mean() > 0.005 and (abs(dark[..., 0] - dark[..., 2]) > 0.3).sum() > 500


def test_a_report_is_printed(tmp_path):
    path = write(CASES["resumed"](tmp_path / "runs"), tmp_path / "a.html")
    browse(path, tmp_path, f"--print-to-pdf={tmp_path / 'a.pdf'}")
    assert (tmp_path / "a.pdf").read_bytes().startswith(b"%PDF") and os.path.getsize(tmp_path / "a.pdf") > 10_000
