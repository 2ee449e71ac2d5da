"""Small pictures, by matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b87a00", "#3a9bd6", "#000000", "#8c8200")


def _figure(columns: int = 1) -> Any:
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise SystemExit("scripts/reproduce.py draws with matplotlib: pip install 'trainlab[report]'") from None
    figure = Figure(figsize=(5.6 if columns == 1 else 2.6 * columns, 3.4 if columns == 1 else 2.9), layout="constrained")
    return figure, figure.subplots(1, columns, squeeze=False)[0]


def curves(
    path: Path,
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    x: str,
    y: str,
    is_log: Sequence[bool] = (False, True),
) -> Path:
    """Lines in one picture.

    Args:
        path: where to.
        lines: by name, the places and the values.
        x: what the places are.
        y: what the values are.
        is_log: whether either axis has logarithms.
    """
    figure, (axes,) = _figure()
    for i, (name, (places, values)) in enumerate(lines.items()):
        dots = "o" if len(places) < 12 else None
        axes.plot(places, values, label=name, color=COLOURS[i % 8], linestyle="-" if i < 8 else "--", marker=dots, markersize=3)
    axes.set(xlabel=x, ylabel=y, xscale="log" if is_log[0] else "linear", yscale="log" if is_log[1] else "linear")
    axes.grid(color="#ececf0")
    axes.legend(fontsize=7, frameon=False)
    figure.savefig(path, dpi=90, facecolor="white")
    return path


def clouds(path: Path, points: Mapping[str, Any], limit: float) -> Path:
    """Points in the plane, a square each.

    Args:
        path: where to.
        points: by name, `(n, 2)`.
        limit: of either axis.
    """
    figure, squares = _figure(len(points))
    for axes, (name, cloud) in zip(squares, points.items(), strict=True):
        axes.scatter(cloud[:, 0], cloud[:, 1], s=1, color=COLOURS[0], alpha=0.5)
        axes.set(xlim=(-limit, limit), ylim=(-limit, limit), xticks=[], yticks=[], aspect="equal")
        axes.set_title(name, fontsize=8)
    figure.savefig(path, dpi=90, facecolor="white")
    return path
