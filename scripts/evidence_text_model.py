"""Does training a small text model on the reports at hand help? Read NORM off its embeddings.

Run: python scripts/evidence_text_model.py shared/data [--epochs 0 3 10]

Trains on the 3,028 + 500 real PTB-XL reports, embeds those with superclass labels and prints the
AUROC of a linear probe by patient-grouped 5-fold cross-validation, per number of epochs. Epoch 0 is
the untrained network with the same tokenizer. The text model sees the reports of all folds, never a
label.
"""

import argparse
import ast
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fm_med.text.encoder import FrozenTextEncoder
from fm_med.text.train import train_text_model

SUPERCLASSES = ("NORM", "MI", "STTC", "CD", "HYP")


def read(data: Path) -> pd.DataFrame:
    """Return one row per ECG: report, patient_id, one bool column per superclass."""
    tables = [data / "ptbxl_text" / "ptbxl_reports_3028.csv", data / "ptbxl_500/ptbxl_database.csv"]
    rows = pd.concat([pd.read_csv(table) for table in tables]).drop_duplicates("ecg_id")
    statements = pd.read_csv(data / "ptbxl_500" / "scp_statements.csv", index_col=0)
    superclass = statements["diagnostic_class"].dropna()
    codes = rows["scp_codes"].map(ast.literal_eval)
    for name in SUPERCLASSES:
        rows[name] = [any(superclass.get(code) == name for code in row) for row in codes]
    return rows[rows["report"].fillna("").str.strip() != ""]


def probe(embeddings: np.ndarray, target: np.ndarray, patient: np.ndarray) -> float:
    """Return the AUROC of out-of-fold scores of a ridge-penalised logistic regression."""
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2000))
    folds = StratifiedGroupKFold(5, shuffle=True, random_state=0)
    scores = cross_val_predict(
        model, embeddings, target, groups=patient, cv=folds, method="decision_function"
    )
    return float(roc_auc_score(target, scores))


def main() -> None:
    """Train, embed, probe, print one line per number of epochs."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path, help="folder with ptbxl_text and ptbxl_500")
    parser.add_argument("--epochs", type=int, nargs="+", default=[0, 3, 10])
    options = parser.parse_args()
    rows = read(options.data)
    patients = rows["patient_id"].nunique()
    print(f"{len(rows)} ECGs, {patients} patients, {rows['report'].nunique()} distinct reports")
    for epochs in options.epochs:
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            train_text_model(rows["report"].tolist(), Path(folder) / "model", num_epochs=epochs)
            duration = time.perf_counter() - start
            encoder = FrozenTextEncoder(Path(folder) / "model", dtype="float32", device="cpu")
            embeddings = encoder.encode(rows["report"].tolist())
        auroc = [probe(embeddings, rows[name], rows["patient_id"]) for name in SUPERCLASSES]
        each = "  ".join(f"{n} {a:.3f}" for n, a in zip(SUPERCLASSES, auroc, strict=True))
        print(
            f"{epochs:3d} epochs, {duration:5.1f} s, {len(encoder.tokenizer)} pieces: {each}  "
            f"macro {np.mean(auroc):.3f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
