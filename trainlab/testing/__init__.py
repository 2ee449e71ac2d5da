"""What trainlab's own tests prove of a strategy and of a run, for anybody's: `check_strategy`, `assert_resumes`."""

from trainlab.testing.report import Report, Result
from trainlab.testing.resuming import assert_resumes
from trainlab.testing.strategies import check_strategy

__all__ = ["Report", "Result", "assert_resumes", "check_strategy"]
