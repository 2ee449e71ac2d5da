"""A mistake in a config, and any exception as one line."""


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
