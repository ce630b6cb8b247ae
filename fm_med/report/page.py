"""One HTML page that needs nothing else: no network, no script, no second file.

Texts are plain; everything is escaped here, at the only place where HTML is made.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from itertools import count
from pathlib import Path

from fm_med.atomic import atomic_file
from fm_med.metrics import Interval


@dataclass(frozen=True)
class Panel:
    """One drawing of a figure.

    Attributes:
        svg: A whole ``<svg>`` element, trusted: made by this package.
        alt: What a reader who cannot see it needs to know.
        share: Width relative to the other panels of the figure.
    """

    svg: str
    alt: str
    share: float = 1.0


@dataclass(frozen=True)
class Figure:
    """One or several panels side by side (below each other on a narrow screen).

    Attributes:
        panels: The drawings.
        caption: Plain text; numbered on the page.
        wide: Take the full width; otherwise two figures share a row.
    """

    panels: Sequence[Panel]
    caption: str
    wide: bool = False


@dataclass(frozen=True)
class Table:
    """A table; the first column names the row, the others are set as numbers.

    Attributes:
        columns: The head.
        rows: Cells as text.
        caption: Plain text; numbered on the page.
        note: Small print below.
        prose: The cells are sentences: set from the left, and broken into lines.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str
    note: str = ""
    prose: bool = False


@dataclass(frozen=True)
class Box:
    """A few plain sentences set apart, for readers who read nothing else.

    Attributes:
        title: What it answers.
        text: Plain text; blank lines separate paragraphs.
    """

    title: str
    text: str


@dataclass(frozen=True)
class KeyNumber:
    """A result that deserves large type.

    Attributes:
        name: What it is, a few words.
        value: The value and its interval.
        meaning: One short sentence for readers outside the field.
    """

    name: str
    value: Interval
    meaning: str


@dataclass(frozen=True)
class Section:
    """A headed part of the page.

    Attributes:
        title: The heading.
        text: Plain text; blank lines separate paragraphs.
        content: Key numbers, boxes, tables and figures in reading order.
        alert: A warning to be set in a box before everything else.
    """

    title: str
    text: str = ""
    content: Sequence[KeyNumber | Box | Table | Figure] = ()
    alert: str | None = None


FOOTER = (
    "Square brackets hold 95 % intervals from 1,000 bootstrap samples of patients, unless a note "
    "says otherwise. AUROC: the chance that a recording with the finding scores above one without "
    "it; 0.5 is a coin toss, 1 is perfect."
)


def write_report(
    path: str | Path,
    *,
    title: str,
    subtitle: str = "",
    sections: Sequence[Section],
    footer: str = FOOTER,
) -> Path:
    """Write one self-contained HTML page and return its path.

    Args:
        path: The file; its folder is made.
        title: Title of the page.
        subtitle: One line below it.
        sections: The parts in reading order.
        footer: What holds for the whole page.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    style = resources.files("fm_med.report").joinpath("style.css").read_text(encoding="utf-8")
    figures, tables = count(1), count(1)
    body = "\n".join(_section(section, figures, tables) for section in sections)
    page = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>
{style}</style>
</head>
<body>
<header>
<h1>{escape(title)}</h1>
<p class="subtitle">{escape(subtitle)}</p>
</header>
<main>
{body}
</main>
<footer>
<p>{escape(footer)}</p>
</footer>
</body>
</html>
"""
    with atomic_file(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def _section(section: Section, figures: Iterator[int], tables: Iterator[int]) -> str:
    """Return one section; figures and tables are numbered through the page."""
    parts = [f"<h2>{escape(section.title)}</h2>"]
    if section.alert:
        parts.append(f'<p class="alert" role="alert">{escape(section.alert)}</p>')
    parts += [f"<p>{escape(part.strip())}</p>" for part in section.text.split("\n\n") if part]
    numbers = [item for item in section.content if isinstance(item, KeyNumber)]
    if numbers:
        parts.append(f'<dl class="key">{"".join(map(_key_number, numbers))}</dl>')
    blocks = []
    for item in section.content:
        if isinstance(item, Box):
            blocks.append(_box(item))
        elif isinstance(item, Table):
            blocks.append(_table(item, next(tables)))
        elif isinstance(item, Figure):
            blocks.append(_figure(item, next(figures)))
    if blocks:
        parts.append('<div class="grid">\n' + "\n".join(blocks) + "\n</div>")
    return "<section>\n" + "\n".join(parts) + "\n</section>"


def _box(box: Box) -> str:
    """Return a box."""
    text = "".join(f"<p>{escape(part.strip())}</p>" for part in box.text.split("\n\n"))
    return f'<aside class="wide box"><h3>{escape(box.title)}</h3>{text}</aside>'


def _key_number(number: KeyNumber) -> str:
    """Return a value in large type with its interval and meaning."""
    value, _, interval = str(number.value).partition(" [")
    spread = f"[{interval}" if interval else ""
    return (
        f"<div><dt>{escape(number.name)}</dt>"
        f'<dd><span class="value">{escape(value)}</span> '
        f'<span class="interval">{escape(spread)}</span>'
        f"<p>{escape(number.meaning)}</p></dd></div>"
    )


def _figure(figure: Figure, number: int) -> str:
    """Return the panels with a numbered caption."""
    panels = "".join(
        f'<div class="panel" style="flex-grow:{panel.share:g};'
        f'flex-basis:{100 * panel.share / sum(p.share for p in figure.panels) - 3:.1f}%" '
        f'role="img" aria-label="{escape(panel.alt)}">{panel.svg}</div>'
        for panel in figure.panels
    )
    kind = ' class="wide"' if figure.wide else ""
    caption = f"<strong>Figure {number}.</strong> {escape(figure.caption)}"
    return (
        f'<figure{kind}><div class="panels">{panels}</div><figcaption>{caption}</figcaption>'
        "</figure>"
    )


def _table(table: Table, number: int) -> str:
    """Return a table with a numbered caption above and a note below."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in table.columns)
    rows = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in row[1:])
        + "</tr>\n"
        for row in table.rows
    )
    kind = ' class="prose"' if table.prose else ""
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    return (
        f'<div class="wide table"><div class="scroll"><table{kind}>'
        f"<caption><strong>Table {number}.</strong> {escape(table.caption)}</caption>\n"
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}</tbody></table></div>{note}</div>"
    )
