"""From a config to the trainer that it describes: what every verb that needs one does first."""

import dataclasses
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from trainlab.cli.configs.config import Config
from trainlab.cli.configs.errors import ConfigError, one_line
from trainlab.cli.configs.settings import Settings
from trainlab.cli.running.board import TensorBoard
from trainlab.cli.running.failing import show_warning
from trainlab.cli.running.parts import unpacked, with_parts
from trainlab.data import check_held_out
from trainlab.runs import Run
from trainlab.trainer import Trainer


@dataclasses.dataclass(frozen=True)
class Setup:
    """What a config describes, built.

    Attributes:
        config: The config.
        settings: Of the run; `data` has the parts that it trains, validates and tests on.
        trainer: With its model, compiled.
        note: A line on the validation, where there is something to say.
    """

    config: Config
    settings: Settings
    trainer: Trainer
    note: str | None

    def callbacks(self, directory: Path) -> list[keras.callbacks.Callback]:
        """Those of the config, and the TensorBoard of the run's directory if there is to be one."""
        board = [TensorBoard(str(directory / "tensorboard"))] if self.settings.tensorboard else []
        return [*board, *self.settings.callbacks]

    def check_test_data(self) -> None:
        """Finds what is wrong with the test data, which is better known before the first update than when all is done.

        Raises:
            TypeError, ValueError: They do not fit the model, which is built.
        """
        if self.settings.data.test is not None:
            check_held_out(self.trainer.model, *unpacked(self.settings.data.test), name="test data")


def seed(config: Config) -> None:
    """Sets what everything random begins with, before anything is built: initial weights come from it."""
    keras.utils.set_random_seed(config.seed)
    if config.deterministic:
        tf.config.experimental.enable_op_determinism()


def set_up(
    config: Config, directory: Path | None, settings: Settings | None = None, workers: tf.distribute.Strategy | None = None
) -> Setup:
    """Builds the data, the model and the trainer.

    Args:
        config: The config; `seed` was called for it.
        directory: Where the run is kept; None for nowhere.
        settings: What the config builds, where that was done.
        workers: That this process has joined; None for one that does it alone.

    Raises:
        Exception: Whatever the functions and classes that the config names raise.
    """
    settings, note = with_parts(config.build() if settings is None else settings)
    data = settings.data
    model = settings.model(data.input_shape, data.num_outputs)
    if not isinstance(model, keras.Model):
        raise TypeError(f"run.model must return a keras.Model, not a {type(model).__name__}")
    settings = with_defaults(settings)
    run: Run | None = None if directory is None else settings.run_in(directory)
    trainer = Trainer(
        model,
        settings.strategy,
        optimizer=settings.optimizer,
        loss=settings.loss,
        metrics=list(settings.metrics or ()),
        seed=settings.seed,
        jit_compile=settings.jit_compile,
        deterministic=settings.deterministic or None,
        run=run,
        on_nonfinite=settings.on_nonfinite,
        micro_batch_size=settings.micro_batch_size,
        sum_duplicate_rows=settings.sum_duplicate_rows,
        distribute=workers if settings.distribute == "workers" else settings.distribute,
    )
    return Setup(config, settings, trainer, note)


def check_config(setup: Setup, warn: Callable[[str], None] = show_warning) -> None:
    """Says what of a config nothing used, and warns of a loss that takes logits for probabilities.

    Args:
        setup: Of the config.
        warn: Takes warnings.

    Raises:
        ConfigError: Nothing used what was just typed for this run.
    """
    check_all_used(setup.config, warn)
    _check_logits(setup.settings.loss, setup.trainer.model, warn)


def check_saving(model: keras.Model, warn: Callable[[str], None] = show_warning) -> None:
    """Warns of a model that `save` will not take, which depends on code alone: better known before hours of training."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of lambdas, which Keras says when it does save
            json.dumps(keras.saving.serialize_keras_object(model))
    except Exception as error:
        warn(f"the model cannot be saved whole, and its weights alone will be: {one_line(error)}")


def with_defaults(settings: Settings) -> Settings:
    """The same with the loss and the metrics that the data are made for, where the config names none.

    Raises:
        ValueError: The data tell no loss.
    """
    loss = settings.loss
    if loss is None:
        try:
            loss = settings.data.default_loss()
        except ValueError as error:
            raise ValueError(f"run needs loss: {error}; add run.loss = ...") from None
    metrics = settings.metrics
    if metrics is None:
        try:
            metrics = settings.data.default_metrics()
        except ValueError:  # several outputs, say: the loss alone tells how it goes
            metrics = []
    return dataclasses.replace(settings, loss=loss, metrics=metrics)


def check_all_used(config: Config, warn: Callable[[str], None] = show_warning) -> None:
    """Warns of what of a config nothing used, once all is built.

    Raises:
        ConfigError: It was just typed for this run.
    """
    for binding in config.unused():
        line = config.explain_unused(binding)
        if binding.from_set:  # typed just now for this run: it was meant to matter
            raise ConfigError(line)
        warn(line)


def _check_logits(loss: Any, model: keras.Model, warn: Callable[[str], None]) -> None:
    """Warns of the one mistake that trains without an error and learns nothing: logits taken for probabilities."""
    if isinstance(loss, keras.Loss):
        name, from_logits = type(loss).__name__, loss.get_config().get("from_logits", True)
    else:
        name, from_logits = str(loss), not str(loss).endswith("crossentropy")
    if not from_logits and getattr(model.layers[-1] if model.layers else None, "activation", None) is keras.activations.linear:
        warn(
            f"run.loss = {name} expects probabilities, but the model returns logits: write for example "
            "run.loss = @SparseCategoricalCrossentropy() and SparseCategoricalCrossentropy.from_logits = True"
        )
