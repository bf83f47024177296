"""A plot of the sizes that a vocabulary may have."""

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from metier.analysis.svg import COLOURS, GREY, document
from metier.compress.vocabulary import Size


def plot(sizes: Sequence[Size], chosen: Size) -> str:
    """Return an SVG file: loss, tokens and bytes over the number of pieces, the chosen size marked."""
    kept = [size.pieces for size in sizes]
    files = {name: [size.file_mib[name] for size in sizes] for name in sizes[0].file_mib}
    panels = {
        "nats a character": {"untrained base": [size.nats_a_character for size in sizes]},
        "tokens a row": {
            "input": [size.input_tokens for size in sizes],
            "output": [size.output_tokens for size in sizes],
        },
        "file, MiB": files,
    }

    def draw(figure: Figure) -> None:
        for axes, (label, lines) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
            for colour, (name, values) in zip(COLOURS, lines.items(), strict=False):
                axes.plot(kept, values, "o-", color=colour, label=name)
            axes.axvline(chosen.pieces, color=GREY, linestyle=":")
            axes.set(xscale="log", xlabel="pieces kept", ylabel=label)
            axes.xaxis.set_major_formatter(FuncFormatter(lambda pieces, _: f"{pieces:,.0f}"))
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.set_ylim(bottom=0)
            axes.legend()

    return document(draw, 2.8)
