"""What the tests' outcomes mean: some may fail, each for a reason that is written down; nothing else may."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

MAY_FAIL = Path(__file__).parent / "may_fail.txt"


def may_fail(text: str, strategy: str) -> dict[str, str]:
    r"""The tests that may fail with a strategy, each with its reason.

    Args:
        text: lines of `## a strategy`, or `## any`; below it `# a reason`; below that a test a line. What is above is prose.
        strategy: as Python.

    Example:
        >>> may_fail("## any\n# refused\na_test.py::A::test_a\n## Heun()\n# two evaluations\nb_test.py::B::test_b", "SGD()")
        {'a_test.py::A::test_a': 'refused'}
    """
    found: dict[str, str] = {}
    section = reason = ""
    for line in map(str.strip, text.splitlines()):
        if line.startswith("## "):
            section, reason = line[3:], ""
        elif line.startswith("# "):
            reason = line[2:]
        elif line and section in ("any", strategy):
            found[line] = reason
    return found


class Judgement(NamedTuple):
    """How tests ended that went through `fit`.

    Attributes:
        passed: how many did.
        skipped: those that want a package which is not installed, or that skipped themselves.
        failed_as_listed: the tests, with the reason.
        failed: those that may not, with the error.
        passed_though_listed: those that need not be listed any more.
        uncollected: files of tests that could not be read, with the error.
    """

    passed: int
    skipped: list[str]
    failed_as_listed: dict[str, str]
    failed: dict[str, str]
    passed_though_listed: list[str]
    uncollected: dict[str, str]

    @property
    def is_good(self) -> bool:
        """Whether what passed and what failed is what should."""
        return bool(self.passed) and not (self.failed or self.passed_though_listed or self.uncollected)

    def lines(self) -> Iterable[str]:
        """All of it, to be read."""
        num_failed = len(self.failed_as_listed) + len(self.failed)
        yield f"{self.passed + num_failed} tests went through fit: {self.passed} passed, {num_failed} failed"
        for name in self.skipped:
            yield f"skipped: {name}"
        reasons: dict[str, list[str]] = {}
        for name, reason in self.failed_as_listed.items():
            reasons.setdefault(reason, []).append(name)
        for reason, names in reasons.items():
            yield f"may fail, {len(names)}: {reason}"
        for name, error in self.failed.items():
            yield f"FAILED {name}: {error}"
        for name in self.passed_though_listed:
            yield f"PASSED, though it stands in {MAY_FAIL.name}: {name}"
        for name, error in self.uncollected.items():
            yield f"NOT READ {name}: {error}"


def judged(results: Iterable[Mapping[str, Any]], allowed: Mapping[str, str]) -> Judgement:
    """Compares what the plugin has written with what may fail."""
    judgement = Judgement(0, [], {}, {}, [], {})
    passed = 0
    for result in results:
        name, outcome = result["test"], result["outcome"]
        if outcome == "passed":
            passed += 1
            if name in allowed:
                judgement.passed_though_listed.append(name)
        elif outcome == "skipped":
            judgement.skipped.append(name)
        elif outcome == "uncollected":
            judgement.uncollected[name] = _brief(result["message"])
        elif name in allowed:
            judgement.failed_as_listed[name] = allowed[name]
        else:
            judgement.failed[name] = f"{result.get('error')}: {_brief(result.get('message', ''))}"
    return judgement._replace(passed=passed)


def read(path: Path) -> list[dict[str, Any]]:
    """What the plugin has written."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _brief(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 300 else f"{line[:297]}..."
