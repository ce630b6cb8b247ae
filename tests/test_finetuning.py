"""The pieces of fine-tuning: convex fits, who is refitted, thresholds, folds, choices."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from hypothesis import given, settings
from hypothesis import strategies as st

from fm_med import finetuning
from fm_med.errors import InputError
from fm_med.examples import Covariate, Examples, encode_clinical
from fm_med.finetuning.finishing import head_outputs, pooled_features, refit
from fm_med.finetuning.results import fold_summary
from fm_med.heads import PredictionHead, PredictionHeadConfig
from fm_med.predictor import Predictor
from fm_med.sampling import StratifiedSampler
from fm_med.tasks import ClassificationTask, MultilabelTask, RegressionTask, SurvivalTask

WIDTH = 6


def made(targets, rows, clinical=None, seed=0):
    """Examples without a cohort, one row per person."""
    ids = np.array([f"r{row}" for row in range(rows)])
    clinical = np.zeros((rows, 0), np.float32) if clinical is None else clinical
    return Examples(
        cohort=None,
        split=np.full(rows, "train", dtype=object),
        row=np.arange(rows),
        id=np.arange(rows) + 100 * seed,
        record_id=ids,
        subject_id=ids,
        clinical=clinical.astype(np.float32),
        targets=targets,
    )


def head(outputs=1, name="log_hazard", squeeze=True, clinical=()):
    config = PredictionHeadConfig(
        inputs=WIDTH, outputs=outputs, output_name=name, squeeze=squeeze, clinical=list(clinical)
    )
    return PredictionHead(config)


def problem(rows=300, seed=0):
    """Features of different scales, age and a sex, and a signal in two features and in age."""
    generator = np.random.default_rng(seed)
    scales = np.array([1, 10, 0.1, 1, 5, 2])
    features = (generator.normal(size=(rows, WIDTH)) * scales + 3).astype(np.float32)
    age, sex = generator.normal(60, 10, rows), generator.integers(0, 2, rows)
    signal = 0.8 * features[:, 0] - 0.08 * features[:, 1] + 0.05 * (age - 60)
    return features, np.stack([age, sex], 1), signal, generator


def followed(rows=300, seed=0):
    features, clinical, signal, generator = problem(rows, seed)
    time = generator.exponential(np.exp(-signal))
    censored = generator.exponential(1.0, rows)
    targets = {"time": np.minimum(time, censored), "event": time <= censored}
    return features, made(targets, rows, clinical, seed)


def test_a_cox_head_is_a_ridge_fit_with_a_free_clinical_part():
    """Its gradient vanishes: penalty times weight for features, nothing for covariates."""
    features, examples = followed()
    task = SurvivalTask(("time", "event"), loss_name="efron", unit="days")
    made_head = head(clinical=["age", "sex"])
    notes = finetuning.fit_head(made_head, task, examples, features)
    made_head.double()
    outputs = made_head(
        torch.from_numpy(features).double(), torch.from_numpy(examples.clinical).double()
    )
    targets = {name: torch.from_numpy(value) for name, value in examples.targets.items()}
    (task.loss(outputs, targets) * examples.targets["event"].sum()).backward()
    slope, weight = made_head.output.weight.grad, made_head.output.weight
    torch.testing.assert_close(-slope, notes["penalty"] * weight, rtol=1e-3, atol=1e-3)
    assert made_head.clinical.weight.grad.abs().max() < 1e-3
    assert weight[0, 0] > 0.5 and notes["penalty"] > 0


def test_label_and_class_heads_are_scikit_learns_logistic_regressions():
    from sklearn.linear_model import LogisticRegression

    features, _, signal, generator = problem()
    label = (signal - 2.5 + generator.logistic(size=len(signal)) > 0).astype(np.float32)
    x = (features - features.mean(0)) / features.std(0)
    for task, targets in (
        (MultilabelTask(("y",), ("y",), "bce"), {"label": label[:, None]}),
        (
            ClassificationTask(("y",), ("0", "1"), "cross_entropy"),
            {"label": label.astype(np.int64)},
        ),
    ):
        made_head = head(task.outputs, "logits", squeeze=False)
        notes = finetuning.fit_head(made_head, task, made(targets, len(label)), features)
        found = head_outputs(made_head, features, made(targets, len(label)))
        if task.name == "classification":
            # Two columns share the weight between them, each half of it: half the penalty.
            found, strength = found[:, 1] - found[:, 0], 2 / notes["penalty"]
        else:
            found, strength = found[:, 0], 1 / notes["penalty"]
        expected = LogisticRegression(C=strength, tol=1e-8).fit(x, label).decision_function(x)
        np.testing.assert_allclose(found, expected, atol=5e-3)


def test_a_number_is_fitted_in_its_own_unit():
    features, clinical, signal, generator = problem()
    target = (500 + 100 * signal + generator.normal(size=len(signal))).astype(np.float32)
    examples = made({"target": target}, len(target), clinical)
    task = RegressionTask(
        ("y",), mean=float(target.mean()), scale=float(target.std()), loss_name="mse"
    )
    made_head = head(1, "value", clinical=["age", "sex"])
    finetuning.fit_head(made_head, task, examples, features)
    found = head_outputs(made_head, features, examples)
    assert np.abs(found - target).mean() < 3


def test_features_of_noise_are_left_out():
    _, examples = followed()
    noise = np.random.default_rng(9).normal(size=(len(examples), 60)).astype(np.float32)
    config = PredictionHeadConfig(inputs=60, clinical=["age", "sex"])
    made_head = PredictionHead(config)
    task = SurvivalTask(("time", "event"), loss_name="efron", unit="days")
    finetuning.fit_head(made_head, task, examples, noise)
    with_noise = head_outputs(made_head, noise, examples)
    finetuning.fit_clinical(made_head := PredictionHead(config), task, examples)
    alone = head_outputs(made_head, noise, examples)
    assert np.corrcoef(with_noise, alone)[0, 1] > 0.9


def tuning(task, train, validation, made_head, **more):
    predictor = Predictor(torch.nn.Linear(1, 1).requires_grad_(False), made_head)
    return finetuning.Finetuning(predictor, None, task, train=train, validation=validation, **more)


@pytest.mark.parametrize("good", [True, False])
def test_the_head_that_the_validation_rows_prefer_is_kept(good):
    features, train = followed()
    held_out, validation = followed(seed=1)
    task = SurvivalTask(("time", "event"), loss_name="efron", unit="days")
    trained = head(clinical=["age", "sex"])
    if good:  # as if a loop had found the truth; the refit sees noise instead of features
        finetuning.fit_head(trained, task, train, features)
        features = np.random.default_rng(1).normal(size=features.shape).astype(np.float32)
    parts = tuning(task, train, validation, trained)
    notes = refit(parts, features, held_out)
    assert notes["refitted"] is not good
    assert (parts.predictor.head is trained) is good


@pytest.mark.parametrize("kind", ["classification", "multilabel"])
def test_balanced_batches_where_there_are_none_are_weights_of_the_rows(kind):
    """Else the setting had no effect on a frozen encoder."""
    from sklearn.linear_model import LogisticRegression

    features, _, signal, generator = problem()
    label = (signal - 5 + generator.logistic(size=len(signal)) > 0).astype(np.int64)
    assert 0.05 < label.mean() < 0.3
    x = (features - features.mean(0)) / features.std(0)
    if kind == "classification":
        task, targets = ClassificationTask(("y",), ("0", "1"), "cross_entropy"), {"label": label}
    else:
        task = MultilabelTask(("y",), ("y",), "bce")
        targets = {"label": label[:, None].astype(np.float32)}
    train = made(targets, len(label))
    parts = tuning(task, train, train, head(task.outputs, "logits", False), balanced=True)
    assert parts.sampler(20).balanced and parts.train is train
    notes = refit(parts, features, None)
    found = head_outputs(parts.predictor.head, features, train)
    found = found[:, -1] - (found[:, 0] if kind == "classification" else 0)
    strength = (2 if kind == "classification" else 1) / notes["penalty"]
    model = LogisticRegression(C=strength, tol=1e-8, class_weight="balanced").fit(x, label)
    np.testing.assert_allclose(found, model.decision_function(x), atol=5e-3)


@pytest.mark.parametrize("kind", ["svm", "logistic"])
def test_so_are_they_of_heads_of_another_kind(kind):
    features, _, signal, generator = problem(120)
    label = (signal - 5 + generator.logistic(size=len(signal)) > 0).astype(np.int64)
    task, train = (
        ClassificationTask(("y",), ("0", "1"), "cross_entropy"),
        made({"label": label}, 120),
    )
    called = []
    for balanced in (False, True):
        parts = tuning(task, train, train, head(2, "logits", False), balanced=balanced)
        parts.predictor.encoder.device = "cpu"
        refit(parts, features, None, kind)
        found = head_outputs(parts.predictor.head, features, train)
        called.append((found[:, 1] > found[:, 0]).mean())
    assert called[1] > called[0] + 0.05


def test_a_number_has_no_balance():
    train = made({"target": np.arange(9.0)}, 9)
    with pytest.raises(InputError, match="for labels and classes, and this is a number"):
        tuning(RegressionTask(("y",)), train, train, head(1, "value"), balanced=True)


def test_cached_rows_are_encoded_once(monkeypatch):
    calls = []

    def encode(_encoder, _processor, examples, _accelerator):
        calls.append(examples.id.tolist())
        return examples.id[:, None].astype(np.float32)

    monkeypatch.setattr("fm_med.finetuning.finishing.encode_rows", encode)
    _, examples = followed(10)
    parts, cache = tuning(SurvivalTask(("t", "e")), examples, examples, head()), {}
    for rows in ([3, 1], [1, 5, 3], [5]):
        some = examples.take(np.array(rows))
        features = pooled_features(parts, some, Accelerator(cpu=True), cache)
        assert features[:, 0].tolist() == some.id.tolist()
    assert calls == [[3, 1], [5]]


def test_thresholds_give_the_largest_f1():
    from sklearn.metrics import f1_score

    generator = np.random.default_rng(0)
    label = (generator.random((80, 2)) < (0.5, 0.1)).astype(np.float32)
    logits = (2 * label + generator.normal(size=label.shape)).astype(np.float32)
    task = MultilabelTask(("a", "b"), ("a", "b"), "bce")
    prediction = finetuning.Prediction(made({"label": label}, 80), logits)
    found = finetuning.thresholds(task, prediction)
    for k, name in enumerate("ab"):
        probability = 1 / (1 + np.exp(-logits[:, k]))
        best = max(f1_score(label[:, k], probability >= cut) for cut in probability)
        assert f1_score(label[:, k], probability >= found[name]) == pytest.approx(best)


def classified(right, confidence):
    """A task of two classes and a prediction of stated confidences, some of them wrong."""
    logit = np.log(np.array(confidence) / (1 - np.array(confidence)))
    label = np.where(right, 0, 1)
    outputs = np.stack([logit, np.zeros_like(logit)], 1)
    examples = made({"label": label}, len(label))
    return ClassificationTask(("kind",), ("a", "b")), finetuning.Prediction(examples, outputs)


@settings(deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=60), st.floats(0.02, 0.4), st.integers(0, 99))
def test_rejection_accepts_most_rows_of_few_errors(right, error, seed):
    """The naive search tries every confidence as a threshold."""
    drawn = np.random.default_rng(seed).choice(np.linspace(0.55, 0.95, 15), len(right))
    task, prediction = classified(right, drawn)
    found = finetuning.rejection(task, prediction, error)
    sizes = {}
    for cut in np.unique(drawn):
        kept = drawn >= cut
        wrong = int((~np.array(right)[kept]).sum())
        if (wrong + 1) / (kept.sum() + 1) <= error:
            sizes[int(kept.sum())] = wrong
    assert found["reached"] == bool(sizes)
    kept = task.confidence(prediction.outputs) >= found["threshold"]
    assert kept.sum() == found["accepted"]
    assert (~np.array(right)[kept]).sum() == found["wrong"]
    if sizes:
        assert found["accepted"] == max(sizes)
    else:
        beyond = drawn[~np.array(right)].max() if not all(right) else 0
        assert found["wrong"] == 0 and found["accepted"] == (drawn > beyond + 1e-9).sum()


def test_rejection_is_for_classes_and_on_request():
    task, prediction = classified([True] * 30, np.linspace(0.6, 0.9, 30))
    assert finetuning.rejection(task, prediction, None) is None
    assert finetuning.rejection(task, None, 0.05) is None
    assert finetuning.rejection(RegressionTask(("y",)), prediction, 0.05) is None
    assert finetuning.rejection(task, prediction, 0.05)["accepted"] == 30
    few = finetuning.rejection(*classified([True, False, True], [0.9, 0.8, 0.7]), 0.05)
    assert not few["reached"] and few["accepted"] == 1 and 0.8 < few["threshold"] < 0.9


def test_the_mean_over_folds_has_the_standard_error_of_all_persons():
    """Four folds of n persons each, SE s: the mean's is s / 2, however often it is repeated."""
    leaf = {"low": 0.6, "high": 0.8, "n": 9}
    folds = [{"model": {"c_index": {"value": v, **leaf}}} for v in (0.6, 0.7, 0.8, 0.7)]
    for repeats in (1, 3):
        mean = fold_summary(folds * repeats, 36, repeats=repeats)["model"]["c_index"]
        assert (mean.value, mean.low, mean.high) == pytest.approx((0.7, 0.65, 0.75))
        assert mean.n == 36
    folds[0]["model"]["c_index"] = {"value": None, "low": None, "high": None, "n": 9}
    assert fold_summary(folds, 36, repeats=1)["model"]["c_index"].value == pytest.approx(2.2 / 3)


def choice(events, asked="auto", is_fresh=False):
    event = np.arange(400) < events
    train = made({"time": np.ones(400), "event": event}, 400)
    task = SurvivalTask(("t", "e"))
    return finetuning.choose_method(asked, task, train, is_fresh=is_fresh)


def test_little_to_learn_from_keeps_the_encoder_frozen():
    assert choice(99)[0] == "none" and "99 training events" in choice(99)[1]
    assert choice(100)[0] == "lora"
    assert choice(5, is_fresh=True)[0] == "full"
    assert choice(5, asked="dora")[0] == "dora"
    train = made({"label": np.zeros((999, 1), np.float32)}, 999)
    task = MultilabelTask(("y",), ("y",), "bce")
    assert finetuning.choose_method("auto", task, train, is_fresh=False)[0] == "none"


def test_few_events_per_fold_are_worth_a_warning():
    task = SurvivalTask(("t", "e"))
    examples = made({"time": np.ones(100), "event": np.arange(100) < 27}, 100)
    assert "about 9 events per fold" in finetuning.warn_few_events(task, examples, 3)
    assert finetuning.warn_few_events(task, examples, 2) is None


def test_batches_of_a_survival_task_hold_events_and_never_repeat_them():
    _, train = followed(60)
    parts = tuning(SurvivalTask(("t", "e")), train, train, head())
    sampler = parts.sampler(4)
    assert isinstance(sampler, StratifiedSampler) and sampler.scarce == 1
    with pytest.raises(InputError, match="shrinks the log-hazards"):
        tuning(SurvivalTask(("t", "e")), train, train, head(), balanced=True)
    nobody = {"time": np.ones(4), "event": np.zeros(4, bool)}
    with pytest.raises(InputError, match="none of 4 validation rows"):
        tuning(SurvivalTask(("t", "e")), train, made(nobody, 4), head()).refuse_validation()


def test_weight_decay_spares_the_clinical_part():
    _, train = followed(20)
    parts = tuning(SurvivalTask(("t", "e")), train, train, head(clinical=["age", "sex"]))
    groups = parts.parameter_groups(1e-3, 1e-2, 0.1)
    free = [
        group for group in groups if parts.predictor.head.clinical.weight in set(group["params"])
    ]
    assert [group["weight_decay"] for group in free] == [0.0]
    decayed = [group for group in groups if group["weight_decay"] == 0.1]
    assert [len(group["params"]) for group in decayed] == [1]  # the output layer's weight
    assert all(group["lr"] == 1e-2 for group in groups)


def test_covariates_become_numbers_with_the_median_for_missing():
    coding = [Covariate("age", "number", fill=61.0), Covariate("sex", "sex", fill=1.0)]
    columns = {"sex": ["female", None, "Male"], "age": [50, None, float("nan")]}
    found = encode_clinical(coding, columns, 3, "here")
    np.testing.assert_array_equal(found, [[50, 0], [61, 1], [61, 1]])
    with pytest.raises(InputError, match="'sex' is 'm', expected female, male or null"):
        encode_clinical(coding, {"age": [1], "sex": ["m"]}, 1, "here")
    with pytest.raises(InputError, match="here has no column 'sex'"):
        encode_clinical(coding, {"age": [1]}, 1, "here")


def test_examples_of_several_splits_are_read_in_their_order():
    import pyarrow as pa

    tables = {name: pa.table({"x": [f"{name}{k}" for k in range(5)]}) for name in ("a", "b")}
    cohort = SimpleNamespace(rows=lambda split, rows, _columns: tables[split].take(rows))
    examples = made({}, 6)
    split = np.array(["b", "a", "b", "b", "a", "a"], dtype=object)
    row = np.array([4, 0, 0, 2, 3, 1])
    examples = Examples(**{**vars(examples), "cohort": cohort, "split": split, "row": row})
    assert examples.table(["x"])["x"].to_pylist() == ["b4", "a0", "b0", "b2", "a3", "a1"]
    some = examples.table(["x"], np.array([4, 0]))["x"].to_pylist()
    assert some == ["a3", "b4"]
    assert examples.take(np.array([5, 0])).table()["x"].to_pylist() == ["a1", "b4"]
    assert examples.of_splits(["a"]).table()["x"].to_pylist() == ["a0", "a3", "a1"]


@pytest.mark.parametrize(("is_fresh", "ridge"), [(False, True), (True, True), (False, False)])
def test_the_loop_starts_at_the_ridge_head_of_a_saved_encoder(is_fresh, ridge, monkeypatch):
    features, examples = followed()
    monkeypatch.setattr(finetuning.building, "pooled_features", lambda *_: features)
    task = SurvivalTask(columns=("time", "event"), loss_name="efron", unit="years")
    covariates = ["age", "sex"]
    tuning = SimpleNamespace(
        predictor=SimpleNamespace(head=head(clinical=covariates)),
        trains=True,
        train=examples,
        fit_rows=examples,
        task=task,
        clinical_head=None,
        starts_fitted=False,
    )
    job = SimpleNamespace(is_fresh=is_fresh, cache=None)
    finetuning.warm_start(tuning, job, None, ridge=ridge)
    expected = head(clinical=covariates)
    finetuning.fit_head(expected, task, examples, features)
    started = head_outputs(tuning.predictor.head, features, examples)
    fitted = head_outputs(expected, features, examples)
    assert tuning.starts_fitted is (ridge and not is_fresh)
    assert np.array_equal(started, fitted) is (ridge and not is_fresh)
    # What the network adds to is the covariates alone in either case.
    alone = head_outputs(tuning.clinical_head, features, examples)
    np.testing.assert_allclose(
        alone, head_outputs(tuning.clinical_head, np.zeros_like(features), examples)
    )
