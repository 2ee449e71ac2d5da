"""What arrays take of the memory, at the peak, each in a process of its own."""

import pathlib
import sys

import pytest

SCRIPTS = pathlib.Path(__file__).parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))

from benchmarking import footprint  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="Linux counts"),
]
SIZE = 300  # MB; TensorFlow itself takes some tens more for a first fit


@pytest.mark.parametrize(
    ("kind", "at_least", "at_most"),
    [
        ("arrays", 0.9, 1.35),
        ("memmap", 0.9, 1.35),
        ("memmap_streamed", 0.0, 0.5),
        ("sgd", 1.8, 2.3),
        ("sgd_saved", 2.6, 3.3),
        ("adam", 1.2, 1.6),
        ("adam_saved", 2.0, 2.6),
    ],
)
def test_the_peak_is_known(kind, at_least, at_most):
    found = footprint.measure(kind, SIZE)
    assert abs(found["megabytes"] - SIZE) < 3
    assert at_least < found["times"] - found["file_times"] < at_most
    assert (found["file_times"] > 0.9) == kind.startswith("memmap")
