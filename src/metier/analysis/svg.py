"""Figures as SVG that needs nothing from outside, in one style: files, and elements for a page."""

import io
import re
import warnings
from collections.abc import Callable
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

Findings = dict[str, Any]

INK, GREY = "#1f2933", "#9aa5b1"
COLOURS = ("#2b6cb0", "#c05621", "#2f855a", "#6b46c1", "#b7791f", "#c53030", "#2c7a7b", "#718096")
"""Of lines; a ninth line has the first one's colour again."""
SHARES = LinearSegmentedColormap.from_list(
    "shares", [(0, "#dd8a4b"), (0.5, "#ffffff"), (0.8, "#2b6cb0"), (1, "#1a2f52")]
)
"""Less than an even share is orange, an even share white, more is blue."""
_STYLE: Any = {
    "svg.fonttype": "none",  # text stays text: searchable, and any script the reader's machine has letters for
    "svg.hashsalt": "metier",
    "text.parse_math": False,  # a token may hold dollar signs
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.grid": False,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
}


def document(draw: Callable[[Figure], None], height: float) -> str:
    """Return a figure as an SVG file.

    Args:
        draw: fills the figure.
        height: in inches; the width is 8.
    """
    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # only measured with that font, not drawn
        figure = Figure(figsize=(8, height), layout="constrained")
        draw(figure)
        written = io.StringIO()
        figure.savefig(written, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = written.getvalue()
    return re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)


def drawn(draw: Callable[[Figure, Findings], None], found: Findings, height: float) -> str:
    """Return a figure as an SVG element to be put into a page.

    Args:
        draw: fills the figure.
        found: the findings.
        height: in inches; the width is 8.
    """
    # Inside HTML the namespaces are known; without them the page names no address at all.
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", document(lambda figure: draw(figure, found), height))
    return re.sub(
        r'(<svg[^>]*?) width="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1), count=1
    )


def percent(axes: Axes) -> None:
    """Label the vertical axis in per cent, with light lines across."""
    axes.yaxis.set_major_formatter(PercentFormatter(1, 0))
    axes.grid(axis="y", color="#e4e7eb", linewidth=0.8)
    axes.set_axisbelow(True)


def whole(axes: Axes) -> None:
    """Label the horizontal axis in whole numbers, with light lines across."""
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y", color="#e4e7eb", linewidth=0.8)
    axes.set_axisbelow(True)


def cut(text: str, length: int = 24) -> str:
    """Return a text that is no longer than so many characters."""
    return text if len(text) <= length else text[: length - 1] + "…"
