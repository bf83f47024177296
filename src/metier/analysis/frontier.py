"""The candidates of a sweep as a plot: score against size, with what passes and what is chosen."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from metier.analysis.svg import COLOURS, GREY, INK, document
from metier.evaluate.candidates import Candidate, frontier

_ALL_NAMED = 10
"""Up to so many candidates all have their names beside them; of more, the best of their size."""


def draw_frontier(candidates: Sequence[Candidate], chosen: Candidate, checkpoint: float, margin: float) -> str:
    """Return an SVG file: a point for each candidate that answered, with the 95% interval of its score.

    Filled points passed the gate, a colour is a cut, the ring is round the candidate that is chosen, and the line joins
    those that score better than every smaller one.

    Args:
        candidates: all of them.
        chosen: the one that ships.
        checkpoint: the score of the whole model's checkpoint.
        margin: how much less may ship, in points.
    """
    best = frontier(candidates)
    named = [*best, chosen] if len(candidates) > _ALL_NAMED else candidates

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.axhline(checkpoint, color=INK, linewidth=1, label="checkpoint")
        axes.axhline(checkpoint - margin, color=GREY, linewidth=1, linestyle="--", label=f"checkpoint - {margin:g}")
        axes.step(*_points(best), where="post", color=GREY, linewidth=1.2, label="best of its size or smaller")
        axes.plot(*_points([chosen]), "o", color=INK, markersize=13, markerfacecolor="none", label="chosen")
        for number, cut in enumerate(dict.fromkeys(one.cut for one in candidates)):
            colour = COLOURS[number % len(COLOURS)]
            axes.plot([], [], "o", color=colour, label=cut)
            for one in candidates:
                if one.cut != cut or one.score is None:
                    continue
                size, score = one.file_mib, one.score
                axes.vlines(size, score.low, score.high, color=colour, linewidth=0.8, alpha=0.5)
                axes.plot(size, score.value, "o", color=colour, markerfacecolor=colour if one.passed else "white")
                if one in named:
                    axes.annotate(one.name, (size, score.value), (5, 4), textcoords="offset points", fontsize=7)
        metric = chosen.score.metric if chosen.score else "score"
        axes.set(xlabel="file, MiB (filled: passed)", ylabel=f"{metric} on validation rows")
        axes.legend(ncols=5, loc="lower center", bbox_to_anchor=(0.5, 1.0), fontsize=8)

    return document(draw, 4.5)


def _points(some: Sequence[Candidate]) -> tuple[list[float], list[float]]:
    measured = [(one.file_mib, one.score.value) for one in some if one.score]
    return [size for size, _ in measured], [value for _, value in measured]
