"""The page: nothing outside it is needed, nothing in it is taken for markup."""

import re
from html.parser import HTMLParser

import pytest

from fm_med.metrics import Interval
from fm_med.report import Figure, KeyNumber, Panel, Section, Table, write_report

VOID = {"meta", "br", "img", "link", "input", "hr"}
HOSTILE = 'a <script>alert("x")</script> & "b"'


class Balance(HTMLParser):
    """Collects tags and fails on one that closes what is not open."""

    def __init__(self):
        super().__init__()
        self.open, self.seen = [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def parsed(page):
    parser = Balance()
    parser.feed(page)
    assert parser.open == []
    return parser.seen


def write(tmp_path, *content, **section):
    path = tmp_path / "new" / "report.html"
    sections = [Section("Title", content=content, **section)]
    assert write_report(path, title="Run", sections=sections) == path
    return path.read_text(encoding="utf-8")


def figure(caption="A figure.", **kinds):
    return Figure([Panel("<svg></svg>", "what it shows")], caption, **kinds)


def test_texts_are_escaped_everywhere(tmp_path):
    path = tmp_path / "report.html"
    table = Table((HOSTILE, HOSTILE), [(HOSTILE, HOSTILE)], HOSTILE, HOSTILE)
    number = KeyNumber(HOSTILE, Interval(0.5, 0.4, 0.6, 10), HOSTILE)
    drawn = Figure([Panel("<svg></svg>", HOSTILE)], HOSTILE)
    section = Section(HOSTILE, HOSTILE, [table, number, drawn], alert=HOSTILE)
    write_report(path, title=HOSTILE, subtitle=HOSTILE, sections=[section])
    page = path.read_text(encoding="utf-8")
    seen = parsed(page)
    assert "script" not in {tag for tag, _ in seen}
    assert page.count("&lt;script&gt;") == 16  # each place once, the title twice
    labels = [attributes["aria-label"] for _, attributes in seen if "aria-label" in attributes]
    assert labels == [HOSTILE]  # the parser undoes the escape: the alternative is intact


def test_page_is_self_contained(tmp_path):
    page = write(tmp_path, figure())
    assert "http" not in page
    assert "@import" not in page
    for tag, attributes in parsed(page):
        assert tag not in {"link", "script", "iframe", "object"}
        assert not {"src", "srcset", "data"} & set(attributes)
        assert attributes.get("href", "#").startswith(("#", "data:"))
    assert not re.search(r"url\((?!#|data:)", page)


def test_figures_and_tables_are_numbered_through_the_page(tmp_path):
    table = Table(("", "Value"), [("a", "1")], "A table.")
    sections = [Section(name, content=[figure(), table]) for name in ("One", "Two")]
    path = write_report(tmp_path / "report.html", title="Run", sections=sections)
    page = path.read_text(encoding="utf-8")
    assert re.findall(r"(?:Figure|Table) \d", page) == [
        "Figure 1",
        "Table 1",
        "Figure 2",
        "Table 2",
    ]


def test_paragraphs_alert_and_key_number(tmp_path):
    number = KeyNumber("Score", Interval(0.5, 0.4, 0.625, 10), "Half.")
    page = write(tmp_path, number, text="First.\n\nSecond.", alert="Look out.")
    assert "<p>First.</p>\n<p>Second.</p>" in page
    assert page.index('role="alert">Look out.') < page.index("First.")
    assert '<span class="value">0.500</span> <span class="interval">[0.400, 0.625]</span>' in page


def test_nothing_is_left_behind_on_failure(tmp_path):
    with pytest.raises(AttributeError):
        write_report(tmp_path / "report.html", title="Run", sections=["not a section"])
    assert list(tmp_path.iterdir()) == []
