import numpy as np
import pytest
import torch
from sklearn.calibration import CalibratedClassifierCV
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC

from fm_med.errors import InputError
from fm_med.probe_head import ProbeHead, export, fit_probe_head


def blobs(rows=160, classes=4, inputs=6, seed=0):
    generator = np.random.default_rng(seed)
    label = np.arange(rows) % classes
    centre = generator.normal(size=(classes, inputs))
    x = centre[label] + 0.8 * generator.normal(size=(rows, inputs))
    return (3 * x + 5).astype(np.float32), label, np.repeat(np.arange(rows // 2), 2)


def probability(head, features):
    with torch.no_grad():
        return head(torch.from_numpy(features))["logits"].softmax(1).numpy()


@pytest.mark.parametrize("classes", [2, 3, 4])
@pytest.mark.parametrize("kind", ["svm", "logistic"])
def test_probabilities_are_those_of_scikit_learn(kind, classes):
    features, label, _ = blobs(classes=classes)
    mean, scale = features.mean(0, dtype=np.float64), features.std(0, dtype=np.float64)
    new, *_ = blobs(classes=classes, seed=1)

    def standardised(x):
        return (x.astype(np.float64) - mean) / scale

    model = LogisticRegression(C=0.1)
    if kind == "svm":
        model = CalibratedClassifierCV(SVC(C=3.0), ensemble=False)
    model.fit(standardised(features), label)
    found = probability(export(model, mean, scale, classes=classes), new)
    assert np.abs(found - model.predict_proba(standardised(new))).max() < 1e-12


@pytest.mark.parametrize("kind", ["svm", "logistic"])
def test_a_saved_head_is_the_same_to_the_last_bit(kind, tmp_path):
    features, label, person = blobs()
    head, notes = fit_probe_head(kind, features, label, classes=5, subject_id=person)
    assert notes["head"] == kind and notes["inner_accuracy"] > 0.7
    head.save_pretrained(tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.suffix not in (".json", ".safetensors")]
    loaded = ProbeHead.from_pretrained(tmp_path, dtype=torch.float64)
    x = torch.from_numpy(features)
    assert torch.equal(loaded(x)["logits"], head(x)["logits"])
    found = probability(head, features)
    assert (found[:, 4] < 1e-15).all()  # a class without training rows
    assert (found.argmax(1) == label).mean() > 0.8


def test_balanced_rows_call_a_rare_class_more_often():
    features, label, person = blobs(rows=400, classes=2, inputs=2)
    kept = (label == 0) | (np.arange(400) % 10 == 1)
    features, label, person = features[kept], label[kept], person[kept]
    called = []
    for balanced in (False, True):
        head, _ = fit_probe_head(
            "svm", features, label, classes=2, subject_id=person, balanced=balanced
        )
        called.append((probability(head, features).argmax(1) == 1).mean())
    assert called[0] < called[1]


def test_the_rows_of_a_person_stay_together():
    """Labels without meaning, of which each person's twin would tell: folds must not find them."""
    generator = np.random.default_rng(0)
    half = generator.normal(size=(60, 20)).astype(np.float32)
    label = np.repeat(np.arange(60) % 2, 2)
    _, notes = fit_probe_head(
        "svm", np.repeat(half, 2, 0), label, classes=2, subject_id=np.repeat(np.arange(60), 2)
    )
    assert notes["inner_accuracy"] < 0.75


def test_too_few_persons_are_refused():
    features, label, person = blobs(rows=8, classes=2)
    with pytest.raises(InputError, match="two classes of two patients each"):
        fit_probe_head("svm", features, label, classes=2, subject_id=np.where(label, 0, person))
