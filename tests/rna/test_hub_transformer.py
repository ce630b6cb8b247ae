"""A foreign BERT over genes: its sentences, its weights, and what is refused."""

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from in_process import launch
from transformers import AutoFeatureExtractor, BertConfig, BertForMaskedLM

from fm_med import hub
from fm_med.cohort import CohortCard, open_cohort
from fm_med.errors import InputError
from fm_med.lora import attach_lora, check_adapter
from fm_med.rna.hub_transformer import HubTransformerModel
from fm_med.rna.rank_values import RankValueProcessor
from fm_med.rna.storage import encode, expression_fields
from fm_med.sources.matrix import SampleColumns, make_matrix

GENES = [f"ENSG{number:011d}" for number in range(1, 13)]
MEDIANS = {gene: 1.0 + place % 4 for place, gene in enumerate(GENES)}
TOKENS = {"<pad>": 0, "<mask>": 1, "<cls>": 2, "<eos>": 3} | {
    gene: 4 + place for place, gene in enumerate(GENES)
}
CARD = CohortCard(name="some", modality="rna", units="log1p_cp10k")


def checkpoint(folder, tokens=TOKENS, medians=MEDIANS, positions=10):
    """A masked-language model as Geneformer's, with its tables as JSON."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=16,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=positions,
    )
    model = BertForMaskedLM(config).eval()
    model.save_pretrained(folder)
    for name, table in (("token_dictionary", tokens), ("gene_median_dictionary", medians)):
        if table is not None:
            (folder / f"{name}.json").write_text(json.dumps(table))
    return model


def counts(samples=5, seed=0):
    return np.random.default_rng(seed).poisson(1.5, (samples, len(GENES))).astype(np.float64)


def rows(values, unit="log1p_cp10k", genes=GENES):
    columns = list(encode(np.asarray(values, np.float32)).values())
    return pa.table(columns, schema=pa.schema(expression_fields(genes, unit)))


def per_ten_thousand(raw):
    return np.log1p(raw / raw.sum(1, keepdims=True) * 1e4)


def processor(**changes):
    usual = {"genes": GENES, "tokens": list(range(4, 16)), "medians": list(MEDIANS.values())}
    return RankValueProcessor(**usual | {"first_token": 2, "last_token": 3} | changes)


@settings(deadline=None)
@given(st.integers(0, 1000), st.integers(3, 14), st.booleans(), st.booleans())
def test_a_sentence_names_the_genes_by_their_rank(seed, longest, first, last):
    """The naive definition, sample by sample."""
    raw = counts(4, seed) + (np.arange(12) == seed % 12)  # none is empty
    reader = processor(
        max_tokens=longest, first_token=2 if first else None, last_token=3 if last else None
    )
    found = reader.from_rows(rows(per_ten_thousand(raw)))
    for sample, ids, mask in zip(raw, found["input_ids"], found["attention_mask"]):
        value = sample / sample.sum() * 1e4 / np.array(list(MEDIANS.values()))
        expressed = [place for place in range(12) if sample[place] > 0]
        # Ties by chance of rounding are compared by value.
        expected = sorted(expressed, key=lambda place: -value[place])[: longest - first - last]
        sentence = ids[mask].tolist()
        assert (ids[~mask] == 0).all()
        assert sentence[:1] == [2] or not first
        assert sentence[-1:] == [3] or not last
        inner = sentence[first : len(sentence) - last]
        assert len(inner) == len(expected) == len(set(inner))
        np.testing.assert_allclose(
            [value[token - 4] for token in inner], value[expected], rtol=1e-5
        )


def test_depth_does_not_change_a_sentence_but_medians_do():
    raw = counts() + 1
    shallow, deep = (processor().from_rows(rows(per_ten_thousand(raw * k))) for k in (1, 7))
    assert torch.equal(shallow["input_ids"], deep["input_ids"])
    flat = processor(medians=[1.0] * 12).from_rows(rows(per_ten_thousand(raw)))
    assert not torch.equal(shallow["input_ids"], flat["input_ids"])


def test_a_new_encoder_learns_its_medians_from_training_rows():
    raw = counts(30)
    reader = RankValueProcessor.for_cohort(CARD, rows(per_ten_thousand(raw)))
    shares = raw / raw.sum(1, keepdims=True) * 1e4
    expected = [np.median(column[column > 0]) for column in shares.T]
    np.testing.assert_allclose(reader.medians, expected, rtol=1e-4)
    assert reader.encoder_settings() == {"vocab_size": 14, "special_tokens": [0, 1]}
    start = hub.start_from("hub_transformer", CARD)
    encoder, made = start.build_for(CARD, lambda: rows(per_ten_thousand(raw)))
    assert made.to_dict() == reader.to_dict()
    assert encoder(**made.from_rows(rows(per_ten_thousand(raw)))).pooler_output.shape == (30, 128)


def test_a_checkpoint_becomes_an_encoder(tmp_path):
    theirs = checkpoint(tmp_path / "theirs")
    start = hub.start_from(str(tmp_path / "theirs"), CARD)
    encoder, reader = start.saved.encoder, start.saved.processor
    assert isinstance(encoder, HubTransformerModel) and not start.is_fresh
    assert reader.max_tokens == 10 and (reader.first_token, reader.last_token) == (2, 3)
    inputs = reader.from_rows(rows(per_ten_thousand(counts() + (np.arange(12) < 3))))
    with torch.no_grad():
        expected = theirs.bert(**inputs).last_hidden_state
        found = encoder(**inputs, output_hidden_states=True, output_attentions=True)
    kept = inputs["attention_mask"]
    torch.testing.assert_close(found.last_hidden_state[kept], expected[kept], rtol=1e-4, atol=1e-5)
    assert len(found.hidden_states) == len(found.attentions) == 2
    for row, (ids, hidden) in enumerate(zip(inputs["input_ids"], found.last_hidden_state)):
        torch.testing.assert_close(found.pooler_output[row], hidden[ids >= 4].mean(0))
    encoder.save_pretrained(tmp_path / "ours")
    reader.save_pretrained(tmp_path / "ours")
    ours = hub.load(tmp_path / "ours")
    assert type(AutoFeatureExtractor.from_pretrained(tmp_path / "ours")) is RankValueProcessor
    assert ours.processor.to_dict() == reader.to_dict()
    with torch.no_grad():
        again = ours.encoder(**inputs).pooler_output
        assert torch.equal(again, encoder(**inputs).pooler_output)


@pytest.mark.parametrize("name", ["query", "key", "value"])
def test_each_projection_matters(name, tmp_path):
    checkpoint(tmp_path)
    loaded = hub.load(tmp_path)
    inputs = loaded.processor.from_rows(rows(per_ten_thousand(counts() + 1)))
    with torch.no_grad():
        before = loaded.encoder(**inputs).pooler_output
        for path, module in loaded.encoder.named_modules():
            if path.endswith(f".{name}"):
                module.weight.mul_(-3)
        assert not torch.allclose(loaded.encoder(**inputs).pooler_output, before, atol=1e-5)


def test_adapters_lie_on_queries_and_values(tmp_path):
    checkpoint(tmp_path)
    loaded = hub.load(tmp_path)
    attach_lora(loaded.encoder, rank=2)
    check_adapter(loaded.encoder, loaded.processor.from_rows(rows(per_ten_thousand(counts() + 1))))
    names = {path.split(".lora_")[0].rpartition(".")[2] for path, p in
             loaded.encoder.named_parameters() if "lora_" in path}  # fmt: skip
    assert names == {"query", "value"}


def test_a_list_of_genes_and_no_medians_will_do(tmp_path):
    checkpoint(tmp_path, tokens=None, medians=None)
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[CLS]", "[SEP]", *GENES]))
    stated = {"medians": "none", "max_tokens": 8, "units": "log1p_tpm"}
    saved = hub.start_from(str(tmp_path), CARD, processor_settings=stated).saved
    assert saved.processor.genes == GENES and saved.processor.tokens == list(range(3, 15))
    assert set(saved.processor.medians) == {1.0} and saved.processor.units == "log1p_tpm"
    assert saved.encoder.config.special_tokens == [0, 1, 2]


def test_genes_without_a_median_are_not_read_and_versions_are_stripped(tmp_path):
    tokens = {f"{name}.7" if name.startswith("ENSG") else name: k for name, k in TOKENS.items()}
    checkpoint(tmp_path, tokens=tokens, medians=dict(list(MEDIANS.items())[2:]))
    assert hub.load(tmp_path).processor.genes == GENES[2:]


@pytest.mark.parametrize(
    ("change", "stated", "message"),
    [
        (
            {"tokens": None},
            {},
            "'bert', .* it has no token_dictionary.json or tokens.json or vocab.txt",
        ),
        ({"medians": None}, {}, "name a file of its genes' medians"),
        ({}, {"tokens": "token_dictionary.pkl"}, "is a pickle, which could run any program"),
        ({}, {"medians": "no.json"}, "has no no.json"),
        ({"tokens": [1]}, {}, "is no JSON object from genes to numbers"),
        ({"tokens": {GENES[0]: 1.5}}, {}, "no whole number"),
        ({"tokens": {**TOKENS, GENES[0]: 99}}, {}, "they belong to another checkpoint"),
        ({"tokens": {"TP53": 4}}, {}, "none of its genes, such as TP53, has a median"),
        ({"medians": dict.fromkeys(GENES, 0.0)}, {}, "must be above 0"),
        ({}, {"max_tokens": 99}, "max_tokens is 99, but"),
        ({}, {"units": "log2_normalised"}, "rank values are made from"),
        ({}, {"unit": "log1p_tpm"}, "processor_settings: .*'unit'"),
    ],
)
def test_what_cannot_be_adopted_is_refused(change, stated, message, tmp_path):
    checkpoint(tmp_path, **change)
    with pytest.raises(InputError, match=message):
        hub.start_from(str(tmp_path), CARD, processor_settings=stated)


def test_a_pickled_dictionary_is_named_and_not_opened(tmp_path):
    checkpoint(tmp_path, tokens=None)
    (tmp_path / "token_dictionary.pkl").write_bytes(b"cposix\nsystem\n(S'false'\ntR.")
    with pytest.raises(InputError, match=r"its token_dictionary.pkl could run any program"):
        hub.load(tmp_path)


def test_input_of_another_kind_is_refused(tmp_path):
    checkpoint(tmp_path)
    loaded = hub.load(tmp_path)
    with pytest.raises(
        InputError, match="in log2_normalised, the model was trained on log1p_cp10k"
    ):
        loaded.processor.from_rows(rows(counts(), unit="log2_normalised"))
    with pytest.raises(InputError, match="sample 2 of 3 expresses none"):
        loaded.processor.from_rows(rows(counts(3) * np.array([[1], [0], [1]])))
    with pytest.raises(InputError, match=r"3 of the model's 12 genes \(25%\)"):
        loaded.processor.from_rows(rows(counts()[:, :3], genes=GENES[:3]))
    with pytest.raises(InputError, match="at most 10 tokens"):
        loaded.encoder(torch.zeros(1, 11, dtype=torch.long))
    with pytest.raises(InputError, match="has no setting 'pooling'"):
        hub.start_from(str(tmp_path), CARD, encoder_settings={"pooling": "skip"})


def test_the_recipe_trains_adapters_and_the_model_predicts(tmp_path, monkeypatch):
    monkeypatch.setenv("FM_MED_CACHE", str(tmp_path / "cache"))
    checkpoint(tmp_path / "bert")
    (tmp_path / "bert" / "gene_median_dictionary.json").rename(tmp_path / "bert" / "medians.txt")
    raw = np.random.default_rng(0).poisson(4, (60, 12)) + 1
    raw[::2, :3] += 20
    frame = pd.DataFrame(raw, index=[f"s{row}" for row in range(60)], columns=GENES)
    frame.rename_axis("sample").to_csv(tmp_path / "counts.csv")
    described = pd.DataFrame({"sample": frame.index, "kind": ["high", "low"] * 30})
    described.to_csv(tmp_path / "samples.csv", index=False)
    cohort = make_matrix(
        tmp_path / "counts.csv",
        tmp_path / "cohort",
        unit="counts",
        columns=SampleColumns(sample="sample", classes=("kind",)),
        table=tmp_path / "samples.csv",
    )
    argv = ("--task", "classification", "--cohort", cohort, "--encoder", tmp_path / "bert")
    stated = ("--processor_settings", '{"medians": "medians.txt"}', "--peft", "lora")
    short = ("--num_epochs", 2, "--per_device_batch_size", 16, "--output", tmp_path / "run")
    assert launch("finetune", *argv, *stated, *short) == 0
    model = hub.load(tmp_path / "run" / "model")
    assert type(model.processor) is RankValueProcessor
    table = open_cohort(cohort).splits["train"]
    called = model.predict(table)["predicted"] == np.array(table["kind"].to_pylist())
    assert called.mean() > 0.8
