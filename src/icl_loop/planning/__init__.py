"""Planning: cost and statistical power of an experiment, before the first request."""

from icl_loop.planning.advice import Advice
from icl_loop.planning.cost_estimate import CostEstimate
from icl_loop.planning.detectability import Detectability, JointPower
from icl_loop.planning.plan import ArmPlan, ContextUse, Curve, Plan, as_json, plan

__all__ = [
    "Advice",
    "ArmPlan",
    "ContextUse",
    "CostEstimate",
    "Curve",
    "Detectability",
    "JointPower",
    "Plan",
    "as_json",
    "plan",
]
