"""Cox regression on six public tables: what ridge, its choice and curved effects are worth.

    python scripts/evidence_cox_tables.py [--repeats 3] [--datasets whas500 gbsg2] [--output FILE]

Five folds, stratified by event, repeated. Medians, categories, knots and penalties come from the
training rows of each fold, and every variant sees the same folds. C is Harrell's, averaged over
folds. The tables are those of scikit-survival; nothing is downloaded.
"""

import argparse
import json
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedKFold

from fm_med.survival import ConvergenceWarning, RestrictedCubicSpline, concordance_index, fit_cox

# Mean C of Cox without a penalty by scikit-survival on these folds, and what is aimed at.
REFERENCE = {
    "whas500": (0.770, 0.766),
    "gbsg2": (0.675, 0.688),
    "veterans_lung_cancer": (0.706, 0.700),
    "aids": (0.739, 0.747),
    "breast_cancer": (0.577, 0.660),
    "flchain": (0.796, 0.797),
}
# Knots (0: straight effects), penalty (None: chosen by inner cross-validation).
VARIANTS = {"no penalty": (0, 0.0), "ridge": (0, None), "ridge, splines": (4, None)}
FEW_VALUES = 6


def load(name: str) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """Return covariates, time and event; rows without any follow-up are left out."""
    from sksurv import datasets

    table, outcome = getattr(datasets, f"load_{name}")()
    event, follow_up = (np.asarray(outcome[field]) for field in outcome.dtype.names)
    # The chapter of the cause of death tells the outcome.
    table = table.drop(columns="chapter", errors="ignore")
    kept = follow_up > 0
    return table[kept].reset_index(drop=True), follow_up[kept], event[kept].astype(bool)


class Expansion:
    """Table -> matrix; all that is learned comes from the table given to the constructor."""

    def __init__(self, table: pd.DataFrame, knots: int) -> None:
        self.numbers = [c for c in table if pd.api.types.is_numeric_dtype(table[c])]
        self.median = table[self.numbers].astype(float).median()
        self.levels = {
            column: sorted(table[column].dropna().astype(str).unique())[1:]
            for column in table.columns.difference(self.numbers)
        }
        filled = table[self.numbers].astype(float).fillna(self.median)
        self.splines = {
            column: RestrictedCubicSpline.fit(filled[column], knots)
            for column in self.numbers
            if knots and filled[column].nunique() > FEW_VALUES
        }

    def __call__(self, table: pd.DataFrame) -> np.ndarray:
        """Return (rows, columns): numbers or their splines, then one column per level."""
        filled = table[self.numbers].astype(float).fillna(self.median)
        columns = []
        for column in self.numbers:
            values = filled[column].to_numpy()
            spline = self.splines.get(column)
            columns.append(values[:, None] if spline is None else spline.basis(values))
        for column, levels in self.levels.items():
            labels = table[column].astype(str).to_numpy()
            columns += [(labels == level)[:, None].astype(float) for level in levels]
        return np.concatenate(columns, axis=1)


def evaluate(name: str, repeats: int) -> dict[str, dict[str, float]]:
    """Return the mean C of each variant with its deviation over folds, and the seconds it took."""
    table, follow_up, event = load(name)
    results = {}
    for variant, (knots, penalty) in VARIANTS.items():
        found, start = [], time.process_time()
        for repeat in range(repeats):
            folds = StratifiedKFold(5, shuffle=True, random_state=repeat)
            for rest, test in folds.split(table, event):
                train = table.iloc[rest]
                expand = Expansion(train, knots)
                if expand(train).shape[1] > event[rest].sum():
                    # Curves are learned from events: with more columns than events, none.
                    expand = Expansion(train, 0)
                fit = fit_cox(
                    expand(train), time=follow_up[rest], event=event[rest], penalty=penalty
                )
                risk = fit.log_hazard(expand(table.iloc[test]))
                found.append(concordance_index(follow_up[test], event[test], risk))
        results[variant] = {
            "c_index": float(np.mean(found)),
            "deviation": float(np.std(found)),
            "cpu_seconds": time.process_time() - start,
        }
    return results


def main() -> None:
    """Print one line per data set and variant; write all of it as JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--datasets", nargs="+", choices=REFERENCE, default=list(REFERENCE))
    parser.add_argument("--output", type=Path)
    settings = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    results = {}
    for name in settings.datasets:
        results[name] = evaluate(name, settings.repeats)
        reference, aim = REFERENCE[name]
        print(f"{name}: scikit-survival's Cox {reference:.3f}, aim {aim:.3f}")
        for variant, result in results[name].items():
            print(
                f"  {variant:15} {result['c_index']:.4f} +- {result['deviation']:.3f}"
                f"  ({result['cpu_seconds']:.1f} CPU s)",
                flush=True,
            )
    if settings.output:
        settings.output.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
