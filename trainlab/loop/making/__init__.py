"""What a loop is made by: what the user said or was found out, and what the step is traced with."""

from trainlab.loop.making.findings import Findings, check_given, check_strategy
from trainlab.loop.making.recipe import Made, made_by, recipe_of, traced_settings

__all__ = ["Findings", "Made", "check_given", "check_strategy", "made_by", "recipe_of", "traced_settings"]
