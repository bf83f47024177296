"""The learning rate as a pure function of the step."""

import math

from metier.spec.training import Schedule


def learning_rate(step: int, steps: int, peak: float, warmup_share: float, schedule: Schedule = "linear") -> float:
    """Return the rate of one step.

    * ``linear``: a linear rise over the warm-up, then a linear fall towards zero (Bergsma et al. 2025, "Straight to
      Zero", arXiv 2502.15938).
    * ``inverse_sqrt``: the peak all through the warm-up, then falling as the square root of the warm-up's steps to
      those done. OpenMoE's 1 / sqrt(max(step, 10000)) is a peak of 0.01 and a warm-up of 10,000 steps.
    * ``constant``: a linear rise over the warm-up, then the peak.

    Args:
        step: the step, from 0.
        steps: number of steps in all.
        peak: the highest rate.
        warmup_share: share of the steps that warm up.
        schedule: what follows the warm-up.
    """
    warmup = round(steps * warmup_share)
    if schedule == "inverse_sqrt":
        return peak * math.sqrt(max(warmup, 1) / max(step, warmup, 1))
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    return peak if schedule == "constant" else peak * (steps - step) / max(steps - warmup, 1)
