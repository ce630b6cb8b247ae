"""From a matplotlib figure to an inline SVG that takes its ink from the page."""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

# As in style.css on a white page, for a drawing that is a file of its own.
ON_WHITE = {"ink": "#1b1f24", "muted": "#5b6470", "rule": "#d5dae0", "accent": "#0072b2"}
# Stand-ins that become the page's own colours, so that one drawing serves light and dark pages.
INK, MUTED, RULE = "#010203", "#040506", "#070809"
# Okabe & Ito (2008): told apart by readers with any form of colour blindness.
BLUE, VERMILLION, GREEN, ORANGE = "#0072b2", "#d55e00", "#009e73", "#e69f00"
GREY = "#8a939c"  # mid grey: legible on white and on black
PAGE_COLOURS = {  # the accent is the palette's blue on a white page, its sky blue on a dark one
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    RULE: "var(--rule)",
    BLUE: "var(--accent)",
}

STYLE: dict[str, Any] = {
    "svg.fonttype": "none",  # text stays text; the page's style sheet chooses the font
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.6,
    "savefig.transparent": True,
}
_numbers = count()


@contextmanager
def drawing(width: float, height: float, **subplots: Any) -> Iterator[tuple[Any, Any]]:
    """Yield a figure (inches) and its axes in the report's style, without a display.

    Args:
        width: Inches.
        height: Inches.
        subplots: Passed on to ``Figure.subplots``.
    """
    import matplotlib
    from matplotlib.figure import Figure

    # The object interface needs no pyplot, hence no backend, no state and nothing to close.
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure, figure.subplots(**subplots)


def to_svg(figure: Any) -> str:
    """Return the ``<svg>`` element of a figure, free of links, fixed size and clashing ids."""
    file = io.StringIO()
    figure.savefig(file, format="svg", dpi=220)
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = svg.replace("xlink:href", "href")
    head, _, body = svg.partition(">")
    box = re.search(r'viewBox="[^"]*"', head)
    if box is None:
        raise RuntimeError("matplotlib wrote an SVG without viewBox")
    return f"<svg {box.group()}>" + _with_own_ids(_in_page_colours(body))


def standalone(svg: str) -> str:
    """Return an element of `to_svg` as a file of its own: dark on white, with its size.

    The same drawing gives the same file.
    """
    for number, name in enumerate(dict.fromkeys(re.findall(r' id="([^"]+)"', svg))):
        svg = svg.replace(name, f"i{number}")
    for name, colour in ON_WHITE.items():
        svg = svg.replace(f"var(--{name})", colour)
    head, _, body = svg.partition(">")
    box = re.search(r'viewBox="0 0 (\S+) (\S+)"', head)
    if box is None:
        raise RuntimeError("the drawing does not begin at 0 0")
    size = f'width="{float(box[1]) * 4 / 3:.0f}" height="{float(box[2]) * 4 / 3:.0f}"'
    body = re.sub(r"<style[^>]*>[^<]*</style>", "", body)  # matplotlib's, stated below instead
    return (
        f'{head} xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" '
        'stroke-linejoin="round" stroke-linecap="butt">'
        f'<rect width="100%" height="100%" fill="#ffffff"/>{body}\n'
    )


def _in_page_colours(svg: str) -> str:
    """Replace the stand-in colours by the page's variables."""
    for colour, variable in PAGE_COLOURS.items():
        # An attribute takes no variable, a style does: matplotlib writes both.
        svg = re.sub(rf'\b(fill|stroke)="{colour}"', rf'style="\1: {variable}"', svg)
        svg = svg.replace(colour, variable)
    return svg


def _with_own_ids(svg: str) -> str:
    """Drop ids that nothing refers to; make the others unique on any page."""
    number = next(_numbers)
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', svg))
    svg = re.sub(
        r' id="([^"]*)"',
        lambda match: f' id="f{number}-{match[1]}"' if match[1] in used else "",
        svg,
    )
    return re.sub(r'(href="#|url\(#)', rf"\g<1>f{number}-", svg)
