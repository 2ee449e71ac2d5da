"""What a part of the report says: claims with what was seen of them, tables, pictures, and the numbers."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


@dataclasses.dataclass
class Section:
    """A part of EVIDENCE.md.

    Attributes:
        name: of the part, its JSON and its pictures.
        title: its heading.
        is_short: whether it was run in the short form, whose numbers are no evidence.
        text: Markdown, paragraph by paragraph.
        claims: of each what it says, what is wanted, what was seen, within which spread, and whether it is met.
        numbers: all that was measured.
        seconds: how long it took.
        machine: what it was run on; empty where that was not kept.
    """

    name: str
    title: str
    is_short: bool = False
    text: list[str] = dataclasses.field(default_factory=list)
    claims: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    numbers: dict[str, Any] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0
    machine: str = ""

    def say(self, text: str) -> None:
        """A paragraph."""
        print(text, flush=True)
        self.text.append(text)

    def claim(self, what: str, wanted: float, seen: float, spread: float) -> bool:
        """Holds a number against a published one, or one of a closed form; says whether it lies within the spread.

        Args:
            what: in words.
            wanted: the number.
            seen: what came out here.
            spread: how far apart the two may be.
        """
        is_met = bool(abs(seen - wanted) <= spread)  # NaN is not
        claim = {"what": what, "wanted": float(wanted), "seen": float(seen), "spread": float(spread), "met": is_met}
        self.claims.append(claim)
        print(f"{'met' if is_met else 'NOT MET'}: {what}: {wanted:.8g}, seen {seen:.8g}", flush=True)
        return is_met

    def table(self, names: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """A table; all columns but the first are numbers."""
        head = f"| {' | '.join(names)} |\n|---|{'---:|' * (len(names) - 1)}"
        self.say("\n".join([head, *(f"| {' | '.join(map(_text, row))} |" for row in rows)]))

    def picture(self, file: Path, caption: str) -> None:
        """A picture beside the JSON."""
        self.text.append(f"![{caption}](evidence/{file.name})")

    def write(self, directory: Path) -> None:
        """Its JSON, as a whole or not at all."""
        path = directory / f"{self.name}.json"
        beside = path.with_suffix(".tmp")
        beside.write_text(json.dumps(dataclasses.asdict(self), indent=1) + "\n", encoding="utf-8")
        beside.replace(path)

    @classmethod
    def read(cls, path: Path) -> Section:
        """The section that a JSON holds."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))

    def markdown(self, elsewhere: str = "") -> str:
        """The section; `elsewhere` says on what machine it was run, where that is not the page's."""
        rows = [
            f"| {claim['what']} | {claim['wanted']:.8g} | {claim['seen']:.8g} | {claim['spread']:.2g} "
            f"| {'met' if claim['met'] else '**not met**'} |"
            for claim in self.claims
        ]
        table = ["\n".join(["| what | wanted | seen | spread | |", "|---|---:|---:|---:|---|", *rows])] if rows else []
        short = ["*Run in the short form: no evidence, only a sign that it runs.*"] * self.is_short
        took = [f"(`--parts {self.name}`, {self.seconds:,.0f} s{elsewhere}.)"]
        return "\n\n".join([f"## {self.title}", *short, *self.text, *table, *took])


def _text(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def assembled(names: Sequence[str], directory: Path, machine: str) -> str:
    """EVIDENCE.md, of the sections whose JSON is there; it begins with what was not met and what was not run.

    Args:
        names: of all parts, in their order.
        directory: of the JSONs.
        machine: what the parts were run on that were run now; of others that are kept, each says its own.
    """
    found = {name: Section.read(path) for name in names if (path := directory / f"{name}.json").exists()}
    missed = [f"{found[name].title}: {claim['what']}" for name in found for claim in found[name].claims if not claim["met"]]
    num_claims = sum(len(section.claims) for section in found.values())
    is_kept = any(section.machine for section in found.values())
    others = {
        name: f", on {section.machine or 'a machine that was not kept'}" if is_kept and section.machine != machine else ""
        for name, section in found.items()
    }
    head = [
        "# Evidence",
        "`python scripts/reproduce.py` writes this page anew, from nothing but the repository; "
        "`--parts quadratic game` only some of it, `--short` a form of seconds that shows that it runs.",
        f"Run on {machine}.",
        f"{num_claims - len(missed)} of {num_claims} figures are met within the spread that stands beside them.",
        "**Not met:** " + ("; ".join(missed) if missed else "nothing") + ".",
        "**Not run:** " + (", ".join(name for name in names if name not in found) or "nothing") + ".",
    ]
    return "\n\n".join([*head, *(section.markdown(others[name]) for name, section in found.items())]) + "\n"
