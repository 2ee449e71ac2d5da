"""What the command says of itself: each text fits a screen of 24 lines of 100, that of `train` takes 40."""

import dataclasses
import textwrap

from trainlab.cli.configs.settings import Settings

_COMMAND = """\
usage: trainlab VERB [FLAGS]

Trains Keras models with a step that can be swapped, as gin files describe it.

  train     train a model as a config describes it, or go on with it
  find-lr   find the learning rate to begin with
  show      say what happens in a run, and in which order
  report    write one page on one or several runs
  compare   compare strategies with each other and with the plain step
  sweep     look for good settings, run by run

  trainlab VERB --help        explains a verb
  trainlab --help NAME        explains what a config may use: Heun, mlp, Adam, run.epochs
  trainlab --list KIND        strategies, models, data, optimizers, losses, metrics, callbacks, ...
  trainlab --version          the version
  trainlab --print-completion bash
                              what a shell needs to complete all this: eval "$(...)" in ~/.bashrc

examples:
  trainlab train --config configs/heun.gin --set 'run.epochs = 5'
  trainlab find-lr --config configs/heun.gin
  trainlab report runs/heun runs/sgd --output report.html
"""
_TRAIN = """\
usage: trainlab train --config FILE [--set 'NAME.PARAMETER = VALUE'] [--run_dir DIR] [--resume=HOW]
   or: python -m trainlab.train --config FILE ...

Trains a Keras model as gin files describe it and leaves config.gin, metrics.jsonl, model.keras,
result.json and checkpoints in a directory. The same command again goes on where it was stopped; of
a finished run it shows the result.

  --config FILE     what to train; may be repeated, a later file overrides an earlier one
  --set 'BINDING'   changes one thing without a file; may be repeated, overrides every file
  --run_dir DIR     where the results go (runs/NAME-OF-CONFIG)
  --resume HOW      auto: go on with the run that is there, or begin (default); must: go on or fail;
                    never: begin, and refuse a directory that holds a run; weights: begin with the
                    weights of the run that is there, whose files go to DIR/earlier-1
  --overwrite       with --resume=never: remove the run that is there
  --use WHICH       last (default) or best, by run.keep_best: the checkpoint whose weights are
                    tested and kept as model.keras
  --override NAME   go on although this was changed on purpose: learning_rate, data,
                    micro_batch_size or on_nonfinite
  --print-config    say what would run: every value, and where it comes from
  --dry-run         try it: two updates, an evaluation and a checkpoint, and nothing is left
  --list KIND       say what there is: strategies, models, data, optimizers, losses, callbacks, ...
  --debug           on an error, show the whole traceback
  --help [NAME]     this text, or what a name stands for: --help Heun, --help run.epochs

examples:
  trainlab train --config configs/heun.gin --set 'run.epochs = 5' --set 'mlp.hidden_sizes = (128,)'
  trainlab train --config configs/heun.gin --set 'run.optimizer = @Adam()' --run_dir runs/heun-adam

TF_CPP_MIN_LOG_LEVEL=0 in the environment shows TensorFlow's own messages, which are kept back.
A config may set every argument of what it names (mlp, Heun, keras.optimizers.SGD, ...), and of the
run itself (--help run explains them): {settings}.
"""
_REPORT = """\
usage: trainlab report RUN [RUN ...] [--output FILE] [--title TEXT]

Writes one page on the runs in these directories: curves, settings that differ, results.

  -o, --output FILE  report.html by default; .md, .png, .pdf and .svg are other forms of it
  --title TEXT       the heading
  --debug            on an error, show the whole traceback
  --help             this text

example:
  trainlab report runs/heun runs/sgd --output heun-or-sgd.md
"""
_FIND_LR = """\
usage: trainlab find-lr --config FILE [--set 'NAME.PARAMETER = VALUE'] [--output FILE]

Finds the learning rate to begin with: tries ever larger ones, update by update, on the data, the
model and the step of a config, and says which is worth beginning with, and why. Nothing is kept.

  --config FILE      what to train; may be repeated, a later file overrides an earlier one
  --set 'BINDING'    changes one thing without a file; may be repeated, overrides every file
  --smallest RATE    the learning rate to begin at (1e-7)
  --largest RATE     the learning rate to end at (10)
  --num_updates N    how many are tried (100)
  -o, --output FILE  the curve: a picture (.png) or the numbers (.json)
  --debug            on an error, show the whole traceback
  --help             this text

example:
  trainlab find-lr --config configs/heun.gin --output lr.png
"""
_COMPARE = """\
usage: trainlab compare --config FILE [--set 'NAME.PARAMETER = VALUE'] [--run_dir DIR] [--jobs N]

Trains every step of compare.strategies, and the plain step at as many evaluations of the gradient,
at every learning rate from every seed, and says which are better, and which are not told apart.
Leaves comparison.json and report.html, and a directory for each run. The same command goes on.

  --config FILE   what to train; may be repeated, a later file overrides an earlier one
  --set 'BINDING' changes one thing without a file; may be repeated, overrides every file
  --run_dir DIR   where the runs go (runs/NAME-OF-CONFIG)
  --jobs N        processes that make them (1)
  --debug         on an error, show the whole traceback
  --help [NAME]   this text, or what a name stands for: --help compare.seeds

example:
  trainlab compare --config configs/compare.gin --jobs 2
"""
_SWEEP = """\
usage: trainlab sweep --config FILE [--set 'NAME.PARAMETER = VALUE'] [--run_dir DIR]

Looks for good settings in sweep.space with optuna: a run a trial, each in a directory of its own,
ended early where it does worse than others. The same command goes on where it was stopped.

  --config FILE   what to train; may be repeated, a later file overrides an earlier one
  --set 'BINDING' changes one thing without a file; may be repeated, overrides every file
  --run_dir DIR   where the runs and the study go (runs/NAME-OF-CONFIG)
  --debug         on an error, show the whole traceback
  --help [NAME]   this text, or what a name stands for: --help sweep.space

example:
  trainlab sweep --config configs/sweep.gin --set 'sweep.num_trials = 50'
"""
_SHOW = """\
usage: trainlab show RUN

Says what happens in a run, and in which order: what an update is made of, how many are made at
once and why, who is called when, when it is validated and when it is saved. Reads RUN/config.gin,
builds what it describes and trains nothing.

  --debug  on an error, show the whole traceback
  --help   this text

example:
  trainlab show runs/heun
"""
_TEXTS = {
    "": _COMMAND,
    "train": _TRAIN,
    "report": _REPORT,
    "find-lr": _FIND_LR,
    "show": _SHOW,
    "compare": _COMPARE,
    "sweep": _SWEEP,
}


def help_text(verb: str = "") -> str:
    """The text of a verb, or of the command itself.

    Args:
        verb: Its name; empty for the command.

    Example:
        >>> help_text("show").splitlines()[0]
        'usage: trainlab show RUN'
    """
    text = _TEXTS[verb]
    if "{settings}" not in text:
        return text
    text = text.format(settings=", ".join(field.name for field in dataclasses.fields(Settings)))
    *before, last = text.split("\n\n")
    *lines, settings = last.split("\nrun itself")
    return "\n\n".join([*before, lines[0] + "\n" + textwrap.fill(f"run itself{settings}", 100) + "\n"])
