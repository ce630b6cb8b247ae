"""What can be told of a table's cells in aggregates: what is missing, levels, numbers."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fm_med.differences import Difference, RowFacts, judged, listed
from fm_med.tabular.cells import flat

_MOST_LEVELS = 20  # of a column whose levels are compared one by one
_UNSEEN_SHARE = 0.01


def row_facts(table: pa.Table) -> RowFacts:
    """Return the missing cells, levels and numbers of each row's latest visit."""
    yes, numbers = {}, {}
    for name, kind in input_kinds(table).items():
        cells = _latest(table.column(name))
        yes[f"missing cell: {name}"] = np.asarray(pc.is_null(cells), np.float64)
        if kind == "numeric":
            numbers[f"column: {name}"] = cells.cast(pa.float64()).to_numpy(zero_copy_only=False)
            continue
        texts = cells.cast(pa.string())
        known = np.asarray(texts.is_valid())
        levels = sorted(pc.unique(texts).drop_null().to_pylist())
        for level in levels[:_MOST_LEVELS]:
            same = np.asarray(pc.fill_null(pc.equal(texts, level), False), np.float64)
            yes[f"level: {name} = {level}"] = np.where(known, same, np.nan)
    return RowFacts(yes, numbers)


def input_kinds(table: pa.Table) -> dict[str, str]:
    """Return "numeric" or "categorical" of each input column of a cohort."""
    kinds = {}
    for name in table.column_names:
        stated = (table.schema.field(name).metadata or {}).get(b"input")
        if stated:
            kinds[name] = stated.decode()
    return kinds


def _latest(column: pa.ChunkedArray) -> pa.Array:
    """Return each row's last visit; the cells themselves where there are no visits."""
    if not pa.types.is_list(column.type):
        return flat(column)
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
    ends = np.cumsum(lengths) - 1
    return flat(column).take(pa.array(ends, mask=lengths == 0))


def fits(processor: Any, card: Any, table: pa.Table) -> list[Difference]:
    """Compare columns, their kinds and their levels with those of training."""
    del card
    kinds = input_kinds(table)
    wanted = {name: "numeric" for name in processor.numeric}
    wanted |= {name: "categorical" for name in processor.categorical}
    absent = [name for name in processor.columns if name not in table.column_names]
    changed = [n for n, kind in wanted.items() if n not in absent and kinds.get(n, kind) != kind]
    new = [name for name in kinds if name not in wanted]
    advice = "the model cannot read the table without them; add the columns, missing values allowed"
    return [
        judged(
            "columns",
            f"{len(wanted)} columns",
            f"lacks {listed(absent)}" if absent else "all there",
            advice if absent else "",
        ),
        judged(
            "kinds of columns",
            "as in training",
            f"another kind: {listed(changed)}" if changed else "the same",
            "state --numeric or --categorical when the cohort is made" if changed else "",
        ),
        Difference("new columns", "not read", listed(new)),
        *_unseen(processor, table, [*absent, *changed]),
    ]


def _unseen(processor: Any, table: pa.Table, without: list[str]) -> list[Difference]:
    """Return the columns with levels that training did not have."""
    found = []
    for name, levels in zip(processor.categorical, processor.levels):
        if name in without:
            continue
        texts = flat(table.column(name)).cast(pa.string()).drop_null()
        unseen = texts.filter(pc.invert(pc.is_in(texts, pa.array(levels, pa.string()))))
        share = len(unseen) / max(1, len(texts))
        if share > _UNSEEN_SHARE:
            names = listed(sorted(pc.unique(unseen).to_pylist()))
            advice = "the model reads them as unknown; translate them if they mean a known level"
            shown = f"{share:.1%} of cells: {names}"
            found.append(judged(f"levels of {name}", listed(levels), shown, advice))
    return found or [Difference("levels", "known", "no unseen ones")]


def steps(processor: Any) -> list[str]:
    """Return what `TableProcessor` does."""
    return [
        f"numeric, in this order: {', '.join(processor.numeric) or 'none'}; scaled by `scales` "
        "(fm_med.tabular.scaling.NumericScale), a missing number becomes the training median.",
        "missing: true where a number is missing, in columns of which `flagged` is true.",
        f"categorical, in this order: {', '.join(processor.categorical) or 'none'}; code 0 for an "
        "unseen level, 1 for missing where `blank` is true (else 0), 2 and up for `levels`.",
        f"Visits come first, padding after; the latest {processor.max_visits} are read; visit_mask "
        "is true where there is a visit. Without visits there is one per row.",
        f"visit_time: time since the first visit, divided by {processor.time_scale:g}.",
    ]


def example(processor: Any, rows: int, seed: int) -> dict[str, np.ndarray]:
    """Return made-up cells; with visits, of rows of several lengths."""
    rng = np.random.default_rng(seed)
    visits = 4 if processor.visits else 1
    shape = (rows, visits)
    mask = np.arange(visits) < 1 + np.arange(rows)[:, None] % visits
    numeric = rng.normal(size=(*shape, len(processor.numeric)))
    codes = [rng.integers(0, 2 + len(levels), shape) for levels in processor.levels]
    categorical = np.stack(codes, -1) if codes else np.zeros((*shape, 0))
    missing = (rng.random(numeric.shape) < 0.2) & np.array(processor.flagged, bool)
    time = rng.random(shape).cumsum(1) * processor.visits
    return {
        "numeric": (numeric * mask[..., None]).astype(np.float32),
        "categorical": (categorical * mask[..., None]).astype(np.int64),
        "missing": missing & mask[..., None],
        "visit_mask": mask,
        "visit_time": (time * mask).astype(np.float32),
    }
