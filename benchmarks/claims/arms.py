"""What a claim is made of: arms with their settings and cost, conditions, and a rule."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from benchmarks.claims.training import Spec
from benchmarks.claims.verdict import Statement
from memory_cells import VARIANTS

Judge = Callable[[Mapping[str, list[dict]]], list[Statement]]


class Missing(LookupError):
    """A variant that VARIANTS does not hold (yet)."""


@dataclass(frozen=True)
class Arm:
    """variant: a name of VARIANTS. ms: measured CPU milliseconds per step on one core, evaluation left out; for the estimate.
    options: fields of `Spec`."""

    variant: str
    ms: float
    options: dict

    def spec(self, quick: Mapping | None = None) -> Spec:
        """quick: fields in place of the declared ones; dictionaries are merged, fields that the arm lacks are left out.

        Raises Missing.
        """
        if self.variant not in VARIANTS:
            raise Missing(f"cell {self.variant!r} is not in VARIANTS")
        spec, changes = Spec(variant=self.variant, **self.options), {}
        for name, value in (quick or {}).items():
            present = getattr(spec, name)
            if isinstance(value, Mapping):
                changes[name] = {**present, **{k: v for k, v in value.items() if k in present}} if present else present
            elif present is not None:
                changes[name] = value
        return replace(spec, **changes)


@dataclass(frozen=True)
class Claim:
    """sentence, paper: what is claimed, by whom. metric: how it is measured here. varied: what differs between conditions
    and from the paper. cap: CPU core-hours, beyond which no further run of it starts. conditions: condition -> arm -> Arm.
    judge: arm -> runs (one per seed) of one condition -> statements, all of which must hold at every condition.
    quick: `Spec` fields of the form of minutes. plot: the curve's metric."""

    id: str
    sentence: str
    paper: str
    metric: str
    varied: str
    cap: float
    conditions: dict[str, dict[str, Arm]]
    judge: Judge
    quick: dict = field(default_factory=dict)
    plot: str = "loss"

    def specs(self, quick: bool) -> dict[tuple[str, str], Spec | Missing]:
        """(condition, arm) -> its settings, or why there are none."""
        found: dict[tuple[str, str], Spec | Missing] = {}
        for condition, arms in self.conditions.items():
            for name, arm in arms.items():
                try:
                    found[condition, name] = arm.spec(self.quick if quick else None)
                except Missing as reason:
                    found[condition, name] = reason
        return found

    def core_hours(self, seeds: int) -> float:
        """Estimated CPU core-hours at the declared setting if no run stops early; a tenth is for evaluations."""
        arms = [arm for arms in self.conditions.values() for arm in arms.values()]
        return 1.1 * seeds * sum(arm.ms * arm.options["steps"] for arm in arms) / 3.6e6
