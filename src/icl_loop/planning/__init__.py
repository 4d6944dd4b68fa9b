"""Planning: what an experiment takes and what it can show, before the first request."""

from icl_loop.planning.advice import Advice
from icl_loop.planning.detection import Detectability
from icl_loop.planning.expense import Expense
from icl_loop.planning.plans import ArmPlan, Curve, Exposure, Plan, as_json, plan

__all__ = [
    "Advice",
    "ArmPlan",
    "Curve",
    "Detectability",
    "Expense",
    "Exposure",
    "Plan",
    "as_json",
    "plan",
]
