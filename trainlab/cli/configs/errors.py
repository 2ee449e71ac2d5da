"""A mistake in a config, and any exception as one line, in the words of the command line."""

import re


class ConfigError(ValueError):
    """A mistake in a config, as one line: where it is, what the rule is, and what to write instead."""


def one_line(error: BaseException) -> str:
    r"""An exception's message as one line: its first paragraph, without what gin and Keras append.

    Args:
        error: Any exception.

    Returns:
        The line; the exception's type where it has no message.

    Example:
        >>> one_line(ValueError("bad value:\n  3\n\nArguments received by Dense.call(): ..."))
        'bad value: 3'
    """
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    text = text.split("\n  In call to configurable '")[0].strip().split("\n\n")[0]
    return " ".join(text.split()) or type(error).__name__


def in_flags(text: str) -> str:
    """A message of the library in the words of the command line: flags and settings in place of Python's arguments.

    Args:
        text: One line, of an error or a warning.

    Example:
        >>> in_flags('say override=["learning_rate"] to go on; give the Trainer the one that was saved; write jit_compile=False')
        'say --override=learning_rate to go on; give back the one that was saved; write run.jit_compile = False'
    """
    for pattern, replacement in _WORDS:
        text = re.sub(pattern, replacement, text)
    return text


# Each is what the library says, and what that is called here. A test takes all its messages and finds no other word of Python's.
_WORDS = (
    (r"call it where the Trainer has no distribute=join_workers\(\)", "set run.distribute = None"),
    (r"override=\[\W?(\w+)\W?\]", r"--override=\1"),
    (r"resume=never with overwrite", "--resume=never --overwrite"),
    (r"by overwrite=True", "by --resume=never --overwrite"),
    (r"(?<!-)\bresume=['\"]?(\w+)['\"]?", r"--resume=\1"),
    (r"or give another directory$", "or give another directory with --run_dir"),
    (r"\b(?:Trainer|tl\.Run)\(\.\.\., (\w+=.*?)\)", r"\1"),
    (r"\brun=['\"][^'\"]*['\"]", "--run_dir DIR"),
    (r"\bgive (?:the Trainer|fit) (the (?:one|data) that)", r"give back \1"),
    (r"\bcall fit with (the one that|what) was", r"give back \1 was"),
    (r"\bcompile with (the one|those) that", r"give back \1 that"),
    (r"call model\.compile\(optimizer=.*?\), or give the Trainer a loss and an optimizer", "give run.loss and run.optimizer"),
    (r"give model\.compile or the Trainer one", "give run.optimizer"),
    (r"call model\.compile again", "set it where the model is made"),
    (r"the same call goes on", "the same command goes on"),
    (r"\ba Trainer would silently ignore", "this would silently ignore"),
    (r"\bstrategy=Accumulate\((\d+)\)", r"run.strategy = @Accumulate() with Accumulate.num_batches = \1"),
    (
        r"(?<![\w.'])(micro_batch_size|jit_compile|on_nonfinite|keep_best|save_steps|save_seconds|epochs|steps|distribute)=",
        r"run.\1 = ",
    ),
    (r"(run\.jit_compile = \w+), or \"auto\"", r"\1, or None"),
    (r"(jit_compile: saved .*?), or \"auto\"", r"\1, or None"),
)
