"""Reports: what runs have left in their directories, as a page, a table or a picture."""

from trainlab.reports import notebook
from trainlab.reports.reading.timeline import NAME as TIMELINE
from trainlab.reports.reading.timeline import is_timeline
from trainlab.reports.writing import write

report = write

__all__ = ["TIMELINE", "is_timeline", "notebook", "report", "write"]
