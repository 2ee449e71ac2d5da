import ast
import re
import sys

import pytest
from sources import PACKAGE

from trainlab.cli.configs.errors import in_flags, one_line
from trainlab.cli.running.failing import attempted

# How Python's words are written, none of which the command line has. `--resume=never` is one of its own.
PYTHONS = re.compile(
    r"(?<![-\w])(override|resume|overwrite|run|micro_batch_size|jit_compile|on_nonfinite|keep_best|save_steps|save_seconds"
    r"|strategy|distribute)=|Trainer|\b(call|give) fit\b|`fit`|tl\.Run|model\.compile|compile with"
)
# Messages that name such words and that the command cannot come to show, each with the reason.
UNREACHABLE = {
    "Trainer has no argument": "the command's own call has none but what there is",
    "write run=tl.Run": "the same",
    "jit_compile must be True": "`Settings` has checked it",
    "run must be a directory": "`Settings` makes it",
    "deterministic=False, but": "it is True or None here",
    "this Trainer is in a fit already": "a config's callbacks are not given it",
    "somebody else has gone on with this run": "its process fits once",
    "there is nothing to plot yet": "the command draws reports",
    "must give the Trainer its run": "of `trainlab.testing`",
    "there is no run whose best checkpoint": "there is always a run",
    "the model has no weights yet": "it has been trained, or restored",
    "a tf.distribute strategy's scope": "a config opens no scope",
    "fit(steps": "the same",
    "strategy must be": "`Settings` has checked it",
    "give epochs or steps, not both": "the command gives one",
    "resume must be one of": "the flags are checked",
    "overwrite=True removes": "the same",
}


def messages():
    """All texts of the library that may be messages: with a 4 for all that is filled in, docstrings left out."""
    for path in sorted(PACKAGE.rglob("*.py")):
        if "cli" in path.parts:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        parts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
        docs = {
            id(node.body[0].value)
            for node in ast.walk(tree)
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and node.body and isinstance(node.body[0], ast.Expr)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                yield "".join(part.value if isinstance(part, ast.Constant) else "4" for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts | docs:
                yield node.value


def pythons(text):
    return bool(PYTHONS.search(text)) and " " in text


def test_every_message_is_in_the_words_of_the_command_line():
    found = [text for text in messages() if pythons(text)]
    assert len(found) > 15  # there is something to say in other words
    assert [said for said in map(in_flags, found) if pythons(said) and not any(text in said for text in UNREACHABLE)] == []


@pytest.mark.parametrize(
    "said, wanted",
    [
        ('give it back, or say override=["learning_rate"] to go on', "give it back, or say --override=learning_rate to go on"),
        ("begin anew (resume=never with overwrite)", "begin anew (--resume=never --overwrite)"),
        ('begin a new run by resume="weights"', "begin a new run by --resume=weights"),
        ("resume='must' but there is no checkpoint", "--resume=must but there is no checkpoint"),
        ("give the Trainer the one that was saved, its code included", "give back the one that was saved, its code included"),
        ("call fit with what was saved", "give back what was saved"),
        ("give fit the data that were saved", "give back the data that were saved"),
        ("compile with those that were saved", "give back those that were saved"),
        ('write Trainer(..., micro_batch_size=16), or "auto"', 'write run.micro_batch_size = 16, or "auto"'),
        ("give tl.Run(..., keep_best=...)", "give run.keep_best = ..."),
        ('leave out such updates (on_nonfinite="skip")', 'leave out such updates (run.on_nonfinite = "skip")'),
        (
            'jit_compile=True: no: write jit_compile=False, or "auto"',
            "run.jit_compile = True: no: write run.jit_compile = False, or None",
        ),
        (
            "leave it None and use strategy=Accumulate(4)",
            "leave it None and use run.strategy = @Accumulate() with Accumulate.num_batches = 4",
        ),
        ("stopped by SIGTERM; the same call goes on from there", "stopped by SIGTERM; the same command goes on from there"),
        # What is said in these words already, or is about something else.
        ("go on with it by --resume=auto", "go on with it by --resume=auto"),
        ("draw with keras.random and seed=self.seed_generator", "draw with keras.random and seed=self.seed_generator"),
        ("it leaves its order open by deterministic=False", "it leaves its order open by deterministic=False"),
    ],
)
def test_in_flags(said, wanted):
    assert in_flags(said) == wanted


def test_one_line():
    assert one_line(KeyError("a b")) == "a b"
    assert one_line(ValueError("")) == "ValueError"
    assert one_line(ValueError("\n a\n  b \n\n details")) == "a b"
    assert one_line(ValueError("a\n  In call to configurable 'mlp' (<function>)")) == "a"


@pytest.mark.parametrize(
    "code, line, status",
    [
        ("my disk\nis away", "my disk is away; all is saved", 1),
        (None, "terminated; all is saved", 0),
        (143, "terminated; all is saved", 143),
    ],
)
def test_who_leaves_by_sys_exit_is_told_why_with_the_status_that_python_gives(code, line, status):
    def work():
        sys.exit(code)

    assert attempted(work, lambda: None, lambda: "all is saved", debug=False) == (line, status)
