import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fm_med.errors import InputError
from fm_med.text.encoder import FrozenTextEncoder
from fm_med.text.train import mask_tokens, masked_loss, train_text_model, train_tokenizer

SMALL = {"hidden_size": 16, "layers": 1, "heads": 2, "num_epochs": 2, "progress": False}


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    texts = [f"{a} {b}" for a in ("Überleitung", "ÜBERLEITUNG", "rhythm") for b in "abcdefgh"]
    return train_text_model(texts, tmp_path_factory.mktemp("text") / "model", **SMALL)


def test_saved_model_is_a_text_model_like_any_other(model_folder):
    encoder = FrozenTextEncoder(model_folder, dtype="float32", device="cpu")
    embeddings = encoder.encode(["Überleitung a", "überleitung a", "rhythm b"])
    assert embeddings.shape == (3, 16)
    np.testing.assert_allclose(embeddings[0], embeddings[1], atol=1e-6)
    assert np.abs(embeddings[0] - embeddings[2]).max() > 0.01
    assert "24 reports" in (model_folder / "README.md").read_text()


def test_tokenizer_survives_saving_lowers_case_and_keeps_umlauts(model_folder):
    encoder = FrozenTextEncoder(model_folder, dtype="float32", device="cpu")
    tokens = encoder.tokenizer.convert_ids_to_tokens(
        encoder.tokenizer("ÜBERLEITUNG h")["input_ids"]
    )
    assert tokens == ["[CLS]", "überleitung", "h", "[SEP]"]
    assert encoder.tokenizer.tokenize("Uberleitung") != ["überleitung"]
    assert "[UNK]" in encoder.tokenizer.tokenize("Ж")
    assert encoder.tokenizer.mask_token_id == 4


def test_same_seed_gives_the_same_bytes_in_another_process(tmp_path, reports):
    """Hash tables are seeded per process, so two trainings in one process would not show it."""
    code = (
        "import sys\n"
        "from fm_med.text.train import train_text_model\n"
        "train_text_model(sys.argv[2:], sys.argv[1], hidden_size=16, layers=1, heads=2,\n"
        "                 num_epochs=2, progress=False)\n"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a"), *reports],
        check=True,
        capture_output=True,
        env=os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())},
    )
    train_text_model(reports, tmp_path / "b", **SMALL)
    for file in ("tokenizer.json", "model.safetensors"):
        a, b = (
            hashlib.sha256((tmp_path / name / file).read_bytes()).digest() for name in ("a", "b")
        )
        assert a == b, file


def test_seed_matters_and_the_callers_random_state_does_not_change(tmp_path, reports):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    a = train_text_model(reports, tmp_path / "a", seed=0, max_steps=1, **SMALL)
    assert torch.equal(torch.rand(3), expected)
    b = train_text_model(reports, tmp_path / "b", seed=1, max_steps=1, **SMALL)
    assert (a / "model.safetensors").read_bytes() != (b / "model.safetensors").read_bytes()


def test_training_lowers_the_loss(tmp_path, reports):
    losses = []
    for epochs in (1, 200):
        folder = train_text_model(
            reports, tmp_path / str(epochs), **{**SMALL, "num_epochs": epochs, "hidden_size": 32}
        )
        card = (folder / "README.md").read_text().replace("\n", " ")
        losses.append(float(card.split("final loss ")[1].split(",")[0]))
    assert losses[1] < 0.8 * losses[0]


@pytest.mark.parametrize("steps", range(7, 12))
def test_any_number_of_steps_can_be_trained(tmp_path, reports, steps):
    options = SMALL | {"num_epochs": steps}  # few reports are one batch
    folder = train_text_model(reports, tmp_path / "model", max_steps=steps, **options)
    assert f"{steps} epochs" in (folder / "README.md").read_text()


def test_vocabulary_has_an_upper_bound(reports):
    assert len(train_tokenizer(reports, 80)) == 80
    assert 80 < len(train_tokenizer(reports, 4096)) < 400


@given(rows=st.lists(st.integers(0, 6), min_size=1, max_size=5), seed=st.integers(0, 1000))
@settings(deadline=None, max_examples=50)
def test_masks_touch_words_only_and_never_none_of_them(rows, seed):
    width = max(rows) + 3
    input_ids = torch.zeros(len(rows), width, dtype=torch.long)
    for row, words in enumerate(rows):
        input_ids[row, : words + 2] = torch.tensor([2, *range(10, 10 + words), 3])
    corrupted, chosen = mask_tokens(input_ids, 50, torch.Generator().manual_seed(seed))
    words = input_ids >= 10
    assert not (chosen & ~words).any()
    assert chosen.any() == words.any()
    assert torch.equal(corrupted[~chosen], input_ids[~chosen])
    assert ((corrupted[chosen] == 4) | (corrupted[chosen] >= 5)).all()


def test_masks_have_the_published_shares():
    input_ids = torch.full((200, 500), 7)
    corrupted, chosen = mask_tokens(input_ids, 1000, torch.Generator().manual_seed(0))
    assert chosen.float().mean().item() == pytest.approx(0.15, abs=0.005)
    inside = corrupted[chosen]
    assert (inside == 4).float().mean().item() == pytest.approx(0.8, abs=0.01)
    assert (inside == 7).float().mean().item() == pytest.approx(0.1, abs=0.01)


def test_loss_without_a_masked_word_is_zero_and_not_nan():
    from transformers import BertConfig, BertForMaskedLM

    config = BertConfig(
        vocab_size=20,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
    )
    model = BertForMaskedLM(config).eval()
    input_ids = torch.tensor([[2, 8, 9, 3], [2, 7, 3, 0]])
    none = torch.zeros_like(input_ids, dtype=torch.bool)
    loss = masked_loss(model, input_ids, input_ids, none)
    loss.backward()
    assert loss.item() == 0
    chosen = none.clone()
    chosen[0, 1] = chosen[1, 1] = True
    logits = model(input_ids, attention_mask=(input_ids != 0).long()).logits
    expected = -logits.log_softmax(-1)[[0, 1], [1, 1], [8, 7]].mean()
    torch.testing.assert_close(masked_loss(model, input_ids, input_ids, chosen), expected)


@pytest.mark.parametrize("texts", [[], ["normal"], ["normal", " normal ", "", "\n"]])
def test_fewer_than_two_distinct_reports_are_refused(tmp_path, texts):
    with pytest.raises(InputError, match="at least 2 distinct reports"):
        train_text_model(texts, tmp_path / "model", **SMALL)
    assert not (tmp_path / "model").exists()


def test_a_folder_in_use_is_refused(tmp_path, reports):
    (tmp_path / "kept.txt").write_text("kept")
    with pytest.raises(InputError, match="not an empty folder"):
        train_text_model(reports, tmp_path, **SMALL)
    with pytest.raises(InputError, match="not an empty folder"):
        train_text_model(reports, tmp_path / "kept.txt", **SMALL)
    assert (tmp_path / "kept.txt").read_text() == "kept"
