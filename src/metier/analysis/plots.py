"""The plots of the page; each fills a figure with findings."""

# E = experts, D = texts, B = bins of positions, X = any of them

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from metier.analysis.svg import COLOURS, GREY, INK, SHARES, Findings, cut, percent, whole


def load_by_layer(figure: Figure, found: Findings) -> None:
    """Draw the use of every expert in every layer, as multiples of an even share."""
    use_LE = _multiples([layer["use"] for layer in found["layers"]])
    _heat(figure, use_LE, "expert", "layer", [str(number) for number in found["model"]["layers"]])


def enough(found: Findings) -> list[str]:
    """Return the names of the texts that are long enough to be compared."""
    return [text["name"] for text in found["texts"] if text["enough"]]


def use_by_text(figure: Figure, found: Findings) -> None:
    """Draw the use of every expert by text, in the layer of detail."""
    names = enough(found)
    texts = found["layers"][found["detail"]["index"]]["texts"]
    _heat(figure, _multiples([texts[name]["use"] for name in names]), "expert", "", [cut(name) for name in names])


def use_by_position(figure: Figure, found: Findings) -> None:
    """Draw the use of every expert by bins of positions, in the layer of detail."""
    positions = found["detail"]["positions"]
    use_BE = _multiples(positions["bins"])
    starts = [str(number * positions["bin"]) for number in range(len(use_BE))]
    _heat(figure, use_BE, "expert", "from position", starts)


def coactivation(figure: Figure, found: Findings) -> None:
    """Draw, for each expert, the share of its tokens that each other expert gets, too."""
    together = found["detail"]["coactivation"]
    shares_EE = np.array(together["shares"])
    figure.set_layout_engine("compressed")  # the square cells leave room at the sides
    axes = figure.add_subplot()
    top = max(float(shares_EE.max()), 2 * together["chance"])
    image = axes.imshow(shares_EE, cmap="Blues", vmin=0, vmax=top, interpolation="none")
    axes.set(xlabel="... that also go to expert j", ylabel="tokens of expert i ...")
    bar = figure.colorbar(image, ax=axes, format=PercentFormatter(1, 0), shrink=0.8)
    bar.ax.axhline(together["chance"], color=INK, linewidth=1.2)
    bar.set_label(f"share of i's tokens (line: chance, {together['chance']:.0%})")


def specialisation_by_layer(figure: Figure, found: Findings) -> None:
    """Draw how far token ids and positions have experts of their own, layer by layer."""
    axes = figure.add_subplot()
    numbers = found["model"]["layers"]
    kinds = (("token_specialisation", "token ids", 0), ("position_specialisation", "positions", 1))
    for key, label, colour in kinds:
        rows = [layer[key] for layer in found["layers"]]
        if any(row is None for row in rows):
            continue
        axes.plot(numbers, [row["mean"] for row in rows], "o-", color=COLOURS[colour], label=label)
        low, high = ([row[end] for row in rows] for end in ("low", "high"))
        axes.fill_between(numbers, low, high, color=COLOURS[colour], alpha=0.13, linewidth=0)
        axes.plot(numbers, [row["chance"] for row in rows], ":", color=COLOURS[colour], label=f"{label}, by chance")
    measured = found["layers"][0]["token_specialisation"] or found["layers"][0]["position_specialisation"]
    if measured:
        loads = [
            (layer["token_specialisation"] or layer["position_specialisation"])["load"] for layer in found["layers"]
        ]
        axes.plot(numbers, loads, "--", color=GREY, label="by unequal load alone")
    axes.set(xlabel="layer", ylabel="share of the largest possible", ylim=(0, 1.02))
    whole(axes)
    percent(axes)
    axes.legend(ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))


def spread_of_token_ids(figure: Figure, found: Findings) -> None:
    """Draw the spread of each token id, sorted, with its largest possible value and its chance value."""
    axes = figure.add_subplot()
    ids, largest = found["detail"]["token_ids"], found["model"]["largest_spread"]
    spreads = [one["spread_of_largest"] * largest for one in ids]
    chances = [one["chance"] * largest for one in ids]
    ranks = range(1, len(ids) + 1)
    axes.axhline(largest, color=COLOURS[5], linewidth=1.2)
    axes.annotate("largest possible", (1, largest), (0, 3), textcoords="offset points", color=COLOURS[5], va="bottom")
    axes.plot(ranks, spreads, ".", color=COLOURS[0], label="token id", markersize=5)
    axes.plot(ranks, chances, ".", color=GREY, label="the same id, by chance", markersize=3)
    for at in sorted({round(part * (len(ids) - 1)) for part in np.linspace(0, 1, 9)}):
        axes.annotate(
            cut(ids[at]["text"], 12), (at + 1, spreads[at]), (0, -9), textcoords="offset points", ha="center", va="top"
        )
    axes.set(
        xlabel="token ids, most specialised first", ylabel="standard deviation over experts", ylim=(0, largest * 1.12)
    )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    load = found["layers"][found["detail"]["index"]]["token_specialisation"]["load"]
    axes.axhline(load * largest, color=GREY, linestyle="--", linewidth=1.2, label="by unequal load alone")
    axes.legend(ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))


def spread_of_positions(figure: Figure, found: Findings) -> None:
    """Draw the spread of each position in a row, beside its chance value."""
    axes = figure.add_subplot()
    positions = found["detail"]["positions"]
    axes.plot(positions["spread_of_largest"], color=COLOURS[1], linewidth=1, label="position")
    load = found["layers"][found["detail"]["index"]]["position_specialisation"]["load"]
    axes.axhline(load, color=GREY, linestyle="--", linewidth=1.2, label="by unequal load alone")
    axes.axhline(positions["chance"], color=GREY, linestyle=":", label="by chance")
    axes.plot(0, positions["spread_of_largest"][0], "o", color=COLOURS[1], markersize=4)
    axes.set(xlabel="position in the row, in tokens", ylabel="share of the largest possible", ylim=(0, 1.02))
    percent(axes)
    axes.legend(ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))


def drops(figure: Figure, found: Findings) -> None:
    """Draw the share of choices and of tokens without room, by position, for each rule and text."""
    rules = found["drops"]["rules"]
    panels: Sequence[Axes] = figure.subplots(1, len(rules), sharey=True, squeeze=False)[0]
    for axes, (rule, row) in zip(panels, rules.items(), strict=True):
        for number, name in enumerate(enough(found)):
            shares = row["by_position"][name]
            at = np.arange(len(shares["dropped"])) * found["drops"]["bin"]
            colour = COLOURS[number % len(COLOURS)]
            axes.plot(at, shares["dropped"], color=colour, label=cut(name))
            axes.plot(at, shares["lost"], color=colour, linestyle=":")
        room = "" if row["room"] is None else f": room for {row['room']}"
        axes.set_title(f"rule {rule}{room}", fontsize=9, loc="left")
        axes.set(xlabel="position in the row, in tokens")
        percent(axes)
    panels[0].set(ylabel="share without room")
    panels[0].set_ylim(bottom=0)
    if panels[0].get_ylim()[1] < 0.02:
        panels[0].set_ylim(top=0.02)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=4)


def confidence(figure: Figure, found: Findings) -> None:
    """Draw how sure the routers are, layer by layer."""
    axes = figure.add_subplot()
    numbers = found["model"]["layers"]
    rows = [layer["confidence"] for layer in found["layers"]]
    axes.plot(numbers, [row["weights"][0] for row in rows], "o-", color=COLOURS[0], label="weight of the first choice")
    axes.plot(
        numbers, [row["chosen_probability"] for row in rows], "s-", color=COLOURS[2], label="probability of all chosen"
    )
    axes.plot(
        numbers, [row["entropy_share"] for row in rows], "^-", color=COLOURS[1], label="entropy, share of the largest"
    )
    axes.set(xlabel="layer", ylabel="mean over tokens")
    axes.set_ylim(bottom=0)
    whole(axes)
    axes.legend(ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))


def stability(figure: Figure, found: Findings) -> None:
    """Draw the share of choices that are those of the last checkpoint, by checkpoint."""
    axes = figure.add_subplot()
    compared = found["stability"]
    names = [row["name"] for row in compared["checkpoints"]] + [compared["last"]]
    at = range(len(names))
    for layer in range(len(found["layers"])):
        shares = [row["saturation"][layer] for row in compared["checkpoints"]] + [1.0]
        axes.plot(at, shares, color=GREY, linewidth=0.9, label="one layer" if layer == 0 else None)
    for key, label, colour in (("saturation", "choices, all layers", 0), ("equal", "tokens with all choices equal", 2)):
        means = [float(np.mean(row[key])) for row in compared["checkpoints"]] + [1.0]
        axes.plot(at, means, "o-", color=COLOURS[colour], label=label)
    axes.axhline(
        compared["threshold"], color=COLOURS[5], linewidth=1, linestyle="--", label=f"{compared['threshold']:.0%}"
    )
    axes.axhline(compared["chance"], color=GREY, linestyle=":", label="choices, by chance")
    axes.set_xticks(list(at), [cut(name) for name in names])
    axes.set(xlabel="checkpoint, oldest first", ylabel="same as in the last", ylim=(0, 1.03))
    percent(axes)
    axes.legend(ncols=5, loc="lower center", bbox_to_anchor=(0.5, 1.0), fontsize=8)


def _multiples(use: Sequence[Sequence[int]]) -> NDArray[np.float64]:
    """Return uses as multiples of an even share: 1 is an expert that gets its part."""
    counts = np.array(use, np.float64)
    multiples: NDArray[np.float64] = counts / np.maximum(counts.mean(1, keepdims=True), 1e-9)
    return multiples


def _heat(figure: Figure, values_XE: NDArray[np.float64], x: str, y: str, rows: Sequence[str]) -> None:
    """Draw multiples of an even share: white is even, blue is more, orange is less."""
    axes = figure.add_subplot()
    top = max(2.0, float(np.quantile(values_XE, 0.99)))
    norm = TwoSlopeNorm(1.0, 0.0, top)
    image = axes.imshow(values_XE, cmap=SHARES, norm=norm, aspect="auto", interpolation="none")
    axes.set(xlabel=x, ylabel=y)
    step = -(-len(rows) // 32)
    axes.set_yticks(range(0, len(rows), step), rows[::step])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    for side in axes.spines.values():
        side.set_visible(False)
    bar = figure.colorbar(
        image, ax=axes, extend="max", pad=0.02, ticks=[0, 1, *range(2, int(top) + 1, max(int(top) // 3, 1))]
    )
    bar.set_label("times an even share")
