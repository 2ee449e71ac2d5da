"""What a sweep has found: the curve, what is suggested and why, and a picture of it."""

from __future__ import annotations

import base64
import html
import importlib.util
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trainlab.runs.rates.curve import Reading, steepest
from trainlab.runs.rates.swept_rate import SweptRate

if TYPE_CHECKING:
    from trainlab.runs.rates.sweep import Sweep

# Of the rate at which it diverges: sharpness grows during training, other batches are sharper, and schedules warm up to it.
SHARE = 0.1


class LearningRates:
    """Losses over learning rates, and the rate that they suggest.

    The sweep is Smith's range test (https://arxiv.org/abs/1506.01186): one update a rate, each rate by the same factor larger
    than the one before it. Suggested is a tenth of the rate from which on updates raise the loss for good: of a quadratic of
    curvature L that is 2/L, for `SGD` and for `Heun`, so that a tenth keeps its distance from what is unstable. Where that is not
    reached it is where the smoothed loss falls fastest. fastai takes that, a tenth of the lowest point, or the middle of the
    longest fall ("valley"). On the shipped digits (an MLP and a CNN; SGD, momentum, Adam; 4 epochs) the valley was 5 to 50 times
    less than the best rate of a grid, the steepest point up to 20, and a tenth of the divergence 1 to 10: a third of it was often
    better still, and is the next to try.

    Attributes:
        suggestion: a learning rate.
        why: how it was found, in words.
        learning_rates: `[n]` float64, the rates that were tried, each once.
        losses: `[n]` float64, the loss before the update at each.
        smoothed: `[n]` float64, the same with its neighbours' weighed in, on both sides alike.
        diverged_at: the first rate whose update raised the loss for good; None if that was not seen.

    Example:
        >>> found = LearningRates(0.02, "a tenth of 0.2", [0.1, 0.2], [1.0, 4.0], [1.2, 3.8], 0.2)
        >>> found
        LearningRates(suggestion=0.02, diverged_at=0.2, 2 rates from 0.1 to 0.2: a tenth of 0.2)
    """

    def __init__(
        self,
        suggestion: float,
        why: str,
        learning_rates: Sequence[float],
        losses: Sequence[float],
        smoothed: Sequence[float] | np.ndarray,
        diverged_at: float | None,
    ):
        self.suggestion, self.why, self.diverged_at = suggestion, why, diverged_at
        self.learning_rates, self.losses, self.smoothed = (np.asarray(a, np.float64) for a in (learning_rates, losses, smoothed))

    def __repr__(self) -> str:
        diverged = "None" if self.diverged_at is None else f"{self.diverged_at:.3g}"
        rates = self.learning_rates
        tried = f"{len(rates)} rates from {rates[0]:.3g} to {rates[-1]:.3g}"
        return f"LearningRates(suggestion={self.suggestion:.3g}, diverged_at={diverged}, {tried}: {self.why})"

    def plot(self, path: str | os.PathLike[str] | None = None) -> Any:
        """Draws the losses, smoothed too, over the rates, with the suggestion and where it diverged.

        Args:
            path: of an image to write, of any kind that matplotlib knows (.png, .pdf, .svg); None writes nothing.

        Returns:
            The `matplotlib.figure.Figure`.

        Raises:
            ImportError: matplotlib is not installed.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError:
            raise ImportError("a picture needs matplotlib: pip install 'trainlab[report]'") from None
        figure = Figure(figsize=(6, 3.5), layout="constrained")
        axes = figure.subplots()
        axes.plot(self.learning_rates, self.losses, ".", color="0.7", label="each update")
        axes.plot(self.learning_rates, self.smoothed, color="C0", label="smoothed")
        axes.axvline(self.suggestion, color="C2", label=f"suggested: {self.suggestion:.2g}")
        if self.diverged_at is not None:
            axes.axvline(self.diverged_at, color="C3", linestyle="--", label=f"diverges at {self.diverged_at:.2g}")
        low, high = float(np.min(self.losses)), float(np.max(self.losses))
        axes.set_xscale("log")
        if low > 0 and high > 30 * low:
            axes.set_yscale("log")
        axes.set_xlabel("learning rate")
        axes.set_ylabel("loss")
        axes.legend()
        if path is not None:
            figure.savefig(Path(path))
        return figure

    def _repr_html_(self) -> str:
        text = f"<p><b>learning rate {self.suggestion:.3g}</b>: {html.escape(self.why)}</p>"
        if importlib.util.find_spec("matplotlib") is None:
            return text
        image = io.BytesIO()
        self.plot().savefig(image, format="png", dpi=80)
        data = base64.b64encode(image.getvalue()).decode("ascii")
        return f'{text}<img alt="loss over learning rate" src="data:image/png;base64,{data}">'


def suggested(
    rates: Sequence[float],
    losses: Sequence[float],
    still: Sequence[float],
    reading: Reading,
    sweep: Sweep,
    end: str,
    rate: SweptRate,
    is_moot: bool,
) -> LearningRates:
    """What to take, by what was read off the curve.

    Args:
        rates, losses: `[n]`.
        still: losses at weights that hardly move.
        reading: of them.
        sweep: that was to be made.
        end: why it ended before its last rate; "" if it did not.
        rate: of the optimizer.
        is_moot: whether the rate does not matter.
    """
    until = len(rates) if reading.diverged_at is None else reading.diverged_at + 1
    falls_at = steepest(rates[:until], losses[:until], reading.smoothed[:until], still)
    fastest = None if falls_at is None else rates[falls_at]
    diverged_at = None if reading.diverged_at is None else rates[reading.diverged_at]
    if diverged_at is not None:
        suggestion, why = (
            SHARE * diverged_at,
            f"a tenth of {diverged_at:.2g}, from which on updates raise the loss for good ({end})",
        )
        if reading.diverged_at == 0:
            why += "; no smaller rate was tried, so sweep again with a smaller smallest"
    elif is_moot:
        reason = f"the weights move as far at {sweep.smallest:g} as at {sweep.largest:g}, so that the rate does not matter"
        suggestion, why = rate.now, f"{reason}: it is left as it is"
    elif fastest is not None:
        reason = f"the smoothed loss falls fastest at {fastest:.2g}, and did not diverge up to {sweep.largest:g}"
        suggestion, why = fastest, f"{reason}, so that larger ones may do too"
    else:
        reason = (
            f"the loss neither falls nor diverges from {sweep.smallest:g} to {sweep.largest:g}, beyond what batches differ by"
        )
        suggestion, why = rate.now, f"{reason}: the rate is left as it is; try a larger largest, larger batches or more updates"
    if rate.are_several:
        why += "; of several optimizers it is the largest rate, and the others keep their ratios to it"
    return LearningRates(suggestion, why, rates, losses, reading.smoothed, diverged_at)
