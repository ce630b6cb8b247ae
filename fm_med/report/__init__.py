"""The report of a run: ``metrics.json`` for machines, one self-contained HTML page for people."""

from fm_med.report.ecg_paper import ExampleECG
from fm_med.report.page import Box, Figure, KeyNumber, Panel, Section, Table, write_report
from fm_med.report.pretraining import pretraining_sections
from fm_med.report.results import interval_table, write_metrics

__all__ = [
    "Box",
    "ExampleECG",
    "Figure",
    "KeyNumber",
    "Panel",
    "Section",
    "Table",
    "interval_table",
    "pretraining_sections",
    "write_metrics",
    "write_report",
]
