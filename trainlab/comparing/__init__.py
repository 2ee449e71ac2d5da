"""Comparisons: strategies × learning rates × seeds, paired, within one budget, and what can be said of them."""

from trainlab.comparing.comparison import Comparison
from trainlab.comparing.executing import Executor, held_in
from trainlab.comparing.page import write_report
from trainlab.comparing.plan import drawn_rates
from trainlab.comparing.setting_up import compare, finish, plan_of, problem_of

__all__ = ["Comparison", "Executor", "compare", "drawn_rates", "finish", "held_in", "plan_of", "problem_of", "write_report"]
