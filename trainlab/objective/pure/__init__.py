"""Makes a forward pass pure: in a scope, variables are read and assigned as values, wherever and however it is done."""

from trainlab.objective.pure.inlining import functions_inlined
from trainlab.objective.pure.lookups import Lookups
from trainlab.objective.pure.opening import opened
from trainlab.objective.pure.scope import Scope, StandIn, is_reachable

__all__ = ["Lookups", "Scope", "StandIn", "functions_inlined", "is_reachable", "opened"]
