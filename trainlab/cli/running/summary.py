"""What a run is, in a few lines, before it begins."""

from trainlab.cli.configs.settings import Settings
from trainlab.cli.running.setup import Setup
from trainlab.objective import num_parameters
from trainlab.trainer import Trainer

_OUTPUTS = {"classification": ("class", "es"), "sequence_labeling": ("class", "es"), "multilabel": ("label", "s")}


def summary(setup: Setup) -> str:
    """Model, device, data, strategy, update and length of a run, a line each."""
    settings, trainer = setup.settings, setup.trainer
    data, model, strategy = settings.data, trainer.model, settings.strategy
    outputs = many(data.num_outputs, *_OUTPUTS.get(data.task or "", ("output", "s")))
    length = many(settings.epochs, "epoch") if settings.steps is None else many(settings.steps, "update")
    lines = {
        "model": f"{model.name}, {many(num_parameters(model), 'parameter')}",
        "device": trainer.device,
        "data": f"{data.name}: {data.described_sizes} of shape {data.input_shape}, {outputs}",
        "validate": setup.note,
        "overfit": settings.overfit and f"trains and validates on {many(settings.overfit, 'batch', 'es')} alone",
        "strategy": f"{strategy!r}, {many(strategy.evaluations, 'evaluation')} an update",
        "update": _update(settings, trainer),
        "length": length,
    }
    return "\n".join(f"{name:9} {text}" for name, text in lines.items() if text)


def _update(settings: Settings, trainer: Trainer) -> str:
    batches = settings.strategy.batches
    if not settings.data.is_arrays:
        return many(batches, "batch", "es") + " of the data set"
    described, num_examples = trainer.describe(settings.batch_size), settings.data.num_examples
    if num_examples < settings.batch_size * batches:
        return f"all {many(num_examples, 'example')}, fewer than {described}"
    return described


def many(number: int, noun: str, plural: str = "s") -> str:
    """A number of things, in words.

    Example:
        >>> many(1438, "example"), many(1, "class", "es")
        ('1,438 examples', '1 class')
    """
    return f"{number:,} {noun}{'' if number == 1 else plural}"
