"""The learning rate as a pure function of the step."""


def learning_rate(step: int, steps: int, peak: float, warmup_share: float) -> float:
    """Return the rate of one step: a linear rise over the warm-up, then a linear fall towards zero.

    Linear decay to zero: Bergsma et al. 2025, "Straight to Zero" (arXiv 2502.15938).

    Args:
        step: the step, from 0.
        steps: number of steps in all.
        peak: the highest rate.
        warmup_share: share of the steps that rise.
    """
    warmup = round(steps * warmup_share)
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    return peak * (steps - step) / max(steps - warmup, 1)
