"""Colours, lines and markers of the figures.

The colours are those of Okabe and Ito (2008), readable with colour-blindness; their yellow, too
faint on paper, is left out.
"""

from collections.abc import Sequence
from typing import Any

BLUE, VERMILLION, GREEN = "#0072B2", "#D55E00", "#009E73"
COLOURS = (BLUE, VERMILLION, GREEN, "#CC79A7", "#E69F00", "#56B4E9")
LINES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (5, 1.5, 1, 1.5)), (0, (1, 1)))
MARKERS = ("o", "s", "^", "D")


def look_of(place: int) -> tuple[int, int]:
    """Places in `COLOURS` and in `LINES` and `MARKERS` of the n-th series of a figure.

    Neighbours among six differ in all three; 24 looks differ.
    """
    lap, colour = divmod(place, len(COLOURS))
    return colour, (colour + lap) % len(LINES)


def styles_of(order: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Colour, line and marker of each agent by its first place in the order."""
    styles = {}
    for place, name in enumerate(dict.fromkeys(order)):
        colour, turn = look_of(place)
        styles[name] = {"color": COLOURS[colour], "ls": LINES[turn], "marker": MARKERS[turn]}
    return styles
