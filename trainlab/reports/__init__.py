"""Reports: what runs have left in their directories, as a page, a table or a picture."""

from trainlab.reports import notebook
from trainlab.reports.drawing.panels import Line, Panel
from trainlab.reports.page.parts import Section, write_parts
from trainlab.reports.reading.numbers import numbers_of
from trainlab.reports.reading.timeline import NAME as TIMELINE
from trainlab.reports.reading.timeline import is_timeline
from trainlab.reports.tables import Cell, Table
from trainlab.reports.writing import write

report = write

__all__ = [
    "TIMELINE",
    "Cell",
    "Line",
    "Panel",
    "Section",
    "Table",
    "is_timeline",
    "notebook",
    "numbers_of",
    "report",
    "write",
    "write_parts",
]
