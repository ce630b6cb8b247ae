import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fm_med.errors import InputError
from fm_med.text.encoder import FrozenTextEncoder, batches_by_length, pool

MODELS = [("bert_folder", "mean"), ("bert_folder", "cls"), ("bert_folder", "last")]
MODELS += [("llama_folder", "mean"), ("llama_folder", "last")]


def encoder_of(folder, **options):
    return FrozenTextEncoder(folder, **{"dtype": "float32", "device": "cpu", **options})


@pytest.fixture(params=MODELS, ids=lambda pair: f"{pair[0]}-{pair[1]}")
def encoder(request):
    folder, pooling = request.param
    return encoder_of(request.getfixturevalue(folder), pooling=pooling)


def test_one_text_at_a_time_gives_the_same_as_a_padded_batch(encoder, reports):
    together = encoder.encode(reports)
    alone = np.concatenate([encoder.encode([report]) for report in reports])
    encoder.tokens_per_batch = 20
    small_batches = encoder.encode(reports)
    assert together.shape == (len(reports), 32) and together.dtype == np.float32
    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_allclose(together, small_batches, atol=1e-5)


@pytest.mark.parametrize("folder", ["bert_folder", "llama_folder"])
@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_embedding_is_the_naive_pooling_of_the_models_own_output(folder, pooling, reports, request):
    from transformers import AutoModel

    encoder = encoder_of(request.getfixturevalue(folder), pooling=pooling)
    network = AutoModel.from_pretrained(request.getfixturevalue(folder)).eval()
    for report, embedding in zip(reports, encoder.encode(reports), strict=True):
        ids = encoder.tokenizer(report)["input_ids"]
        with torch.no_grad():
            states = network(torch.tensor([ids])).last_hidden_state[0]
        expected = states.mean(0) if pooling == "mean" else states[-1]
        np.testing.assert_allclose(embedding, expected.numpy(), atol=1e-5)


@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    left=st.booleans(),
    extra=st.integers(0, 3),
)
@settings(deadline=None, max_examples=40)
def test_pool_ignores_padding_on_either_side(lengths, left, extra):
    width = max(lengths) + extra
    generator = torch.Generator().manual_seed(7)
    hidden = torch.full((len(lengths), width, 3), float("nan"))
    mask = torch.zeros(len(lengths), width, dtype=torch.long)
    texts = [torch.randn(length, 3, generator=generator) for length in lengths]
    for row, text in enumerate(texts):
        place = slice(width - len(text), width) if left else slice(0, len(text))
        hidden[row, place] = text
        mask[row, place] = 1
    naive = {"mean": lambda t: t.mean(0), "last": lambda t: t[-1], "cls": lambda t: t[0]}
    for pooling, reduce in naive.items():
        expected = torch.stack([reduce(text) for text in texts])
        torch.testing.assert_close(pool(hidden, mask, pooling), expected)


@given(
    lengths=st.lists(st.integers(1, 50), max_size=40),
    budget=st.integers(1, 120),
)
def test_batches_hold_every_row_once_within_the_budget(lengths, budget):
    batches = batches_by_length(np.array(lengths, dtype=np.int64), budget)
    assert sorted(int(row) for batch in batches for row in batch) == list(range(len(lengths)))
    for batch in batches:
        sizes = [lengths[row] for row in batch]
        assert len(batch) == 1 or len(batch) * max(sizes) <= budget
        assert sizes == sorted(sizes, reverse=True)


def test_it_is_frozen_and_without_dropout(bert_folder, reports):
    encoder = encoder_of(bert_folder)
    assert not encoder.model.training
    assert not any(parameter.requires_grad for parameter in encoder.model.parameters())
    np.testing.assert_array_equal(encoder.encode(reports), encoder.encode(reports))


def test_long_texts_are_cut_and_said_so(bert_folder, caplog):
    encoder = encoder_of(bert_folder)
    assert encoder.max_tokens == 64  # the model's limit, below the default of 256
    encoder.encode(["low voltage " * 100])
    assert "fill all 64 tokens" in caplog.text


def test_bfloat16_stays_close_to_float32(llama_folder, reports):
    half = encoder_of(llama_folder, dtype="bfloat16")
    full = encoder_of(llama_folder)
    assert half.model.dtype == torch.bfloat16 and half.key != full.key
    a, b = half.encode(reports), full.encode(reports)
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert cosine.min() > 0.999


def test_overflow_is_refused(bert_folder, tmp_path):
    from transformers import AutoModel

    folder = tmp_path / "huge"
    shutil.copytree(bert_folder, folder)
    network = AutoModel.from_pretrained(folder)
    torch.nn.init.constant_(network.encoder.layer[-1].output.LayerNorm.bias, 1e30)
    network.save_pretrained(folder)
    with pytest.raises(InputError, match="overflows in torch.float16"):
        encoder_of(folder, dtype="float16").encode(["normal ecg"])


def test_key_follows_content_and_options_not_the_path(bert_folder, llama_folder, tmp_path):
    copy = tmp_path / "elsewhere"
    shutil.copytree(bert_folder, copy)
    (copy / "README.md").write_text("a card is not content")
    key = encoder_of(bert_folder).key
    assert encoder_of(copy).key == key
    others = [
        encoder_of(bert_folder, pooling="cls").key,
        encoder_of(bert_folder, prompt="ECG report: ").key,
        encoder_of(bert_folder, max_tokens=32).key,
        encoder_of(bert_folder, dtype="bfloat16").key,
        encoder_of(llama_folder).key,
    ]
    weights = copy / "model.safetensors"
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.write_bytes(changed)
    others.append(encoder_of(copy).key)
    assert len({key, *others}) == 7


def test_prompt_is_put_in_front(bert_folder):
    prompted = encoder_of(bert_folder, prompt="possible ").encode(["ischemia"])
    plain = encoder_of(bert_folder).encode(["possible ischemia"])
    np.testing.assert_array_equal(prompted, plain)


def test_device_map_places_the_model(bert_folder, reports):
    mapped = encoder_of(bert_folder, device_map="cpu").encode(reports)
    np.testing.assert_array_equal(mapped, encoder_of(bert_folder).encode(reports))


def test_encoder_half_of_t5(tmp_path, bert_folder, reports):
    from transformers import AutoTokenizer, T5Config, T5Model

    tokenizer = AutoTokenizer.from_pretrained(bert_folder)
    config = T5Config(vocab_size=len(tokenizer), d_model=16, d_kv=4, d_ff=32, num_layers=1)
    T5Model(config).save_pretrained(tmp_path / "t5")
    tokenizer.save_pretrained(tmp_path / "t5")
    encoder = encoder_of(tmp_path / "t5")
    alone = np.concatenate([encoder.encode([report]) for report in reports])
    np.testing.assert_allclose(encoder.encode(reports), alone, atol=1e-5)


def test_a_tokenizer_of_another_model_is_refused(bert_folder, llama_folder, tmp_path):
    folder = tmp_path / "mixed"
    shutil.copytree(bert_folder, folder)
    shutil.copy(llama_folder / "tokenizer.json", folder)
    with pytest.raises(InputError, match="do not belong together"):
        encoder_of(folder).encode(["sinus rhythm"])


def test_reports_in_unknown_words_are_said_so(bert_folder, caplog):
    encoder_of(bert_folder).encode(["Ритм синусовый"])
    assert "does not know" in caplog.text


@pytest.mark.parametrize("text", ["", "  \n\t", "\u00a0"])
def test_blank_text_is_refused(llama_folder, text):
    with pytest.raises(InputError, match="text 1 is blank"):
        encoder_of(llama_folder).encode(["normal ecg", text])


def test_no_text_gives_no_embedding(bert_folder):
    assert encoder_of(bert_folder).encode([]).shape == (0, 32)


def test_cls_of_a_decoder_is_refused(llama_folder):
    with pytest.raises(InputError, match="every text would get the same vector"):
        encoder_of(llama_folder, pooling="cls")


@pytest.mark.parametrize("options", [{"pooling": "max"}, {"dtype": "int8"}])
def test_unknown_option_is_refused(bert_folder, options):
    name, value = next(iter(options.items()))
    with pytest.raises(InputError, match=f"{name} is '{value}', expected one of"):
        encoder_of(bert_folder, **options)


def test_folders_without_a_model_are_refused(bert_folder, tmp_path):
    with pytest.raises(InputError, match=r"no config\.json"):
        encoder_of(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(InputError, match="holds no weights"):
        encoder_of(tmp_path)
    with pytest.raises(InputError, match="is not a folder"):
        encoder_of(tmp_path / "absent")
    shutil.copy(bert_folder / "model.safetensors", tmp_path)
    with pytest.raises(InputError, match="has no tokenizer"):
        encoder_of(tmp_path)


def test_truncated_weights_are_refused(bert_folder, tmp_path):
    folder = tmp_path / "torn"
    shutil.copytree(bert_folder, folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(InputError, match="cannot be loaded as a text model"):
        encoder_of(folder).encode(["normal ecg"])


def test_weights_of_another_network_are_refused(bert_folder, llama_folder, tmp_path):
    """transformers would draw the missing ones at random."""
    folder = tmp_path / "mixed"
    shutil.copytree(bert_folder, folder)
    shutil.copy(llama_folder / "model.safetensors", folder)
    with pytest.raises(InputError, match="lack .* tensors, first embeddings"):
        encoder_of(folder).encode(["normal ecg"])


def test_a_language_models_checkpoint_loads_silently(bert_folder, tmp_path, capfd, caplog, reports):
    from transformers import AutoModel, AutoTokenizer, BertForMaskedLM

    folder = tmp_path / "mlm"
    network = BertForMaskedLM(AutoModel.from_pretrained(bert_folder).config)
    network.bert.load_state_dict(AutoModel.from_pretrained(bert_folder).state_dict(), strict=False)
    network.save_pretrained(folder)
    AutoTokenizer.from_pretrained(bert_folder).save_pretrained(folder)
    capfd.readouterr()
    caplog.clear()
    embeddings = encoder_of(folder).encode(reports)
    np.testing.assert_array_equal(embeddings, encoder_of(bert_folder).encode(reports))
    assert capfd.readouterr().err == "" and not caplog.records


def test_auto_dtype_follows_the_processor(monkeypatch):
    from fm_med.text import encoder

    cases = [
        ({"avx512_bf16": True, "cpu_name": "AMD EPYC 9554"}, torch.bfloat16),
        ({"avx512_bf16": True, "amx_bf16": True, "cpu_name": "Intel Xeon"}, torch.bfloat16),
        ({"avx512_bf16": True, "amx_bf16": False, "cpu_name": "Intel Xeon"}, torch.float32),
        ({"neon": True, "bf16": True}, torch.bfloat16),
        ({"avx2": True}, torch.float32),
    ]
    for capabilities, expected in cases:
        monkeypatch.setattr(
            torch.cpu, "get_capabilities", lambda found=capabilities: found, raising=False
        )
        assert encoder._native_dtype(torch.device("cpu")) == expected


def test_code_that_comes_with_a_model_is_never_run(bert_folder, tmp_path):
    folder = tmp_path / "custom"
    shutil.copytree(bert_folder, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "strange", "auto_map": {"AutoConfig": "code.C", "AutoModel": "code.M"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(InputError, match="cannot be loaded as a text model"):
        encoder_of(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["emilyalsentzer/Bio_ClinicalBERT", "a/b/c", "no such"])
def test_unknown_model_offline_is_one_sentence(name):
    with pytest.raises(InputError) as caught:
        encoder_of(name)
    message = str(caught.value)
    assert name in message and "\n" not in message


def test_cached_hub_model_works_offline_under_its_commit(bert_folder, tmp_path):
    """Lay out a Hub cache by hand and read it in a fresh process without network."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "hub" / "models--clinic--tiny-bert"
    shutil.copytree(bert_folder, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    code = (
        "from fm_med.text.encoder import FrozenTextEncoder\n"
        "encoder = FrozenTextEncoder('clinic/tiny-bert', dtype='float32', device='cpu')\n"
        "print(encoder.card['version'], encoder.encode(['normal ecg']).shape)"
    )
    environment = os.environ | {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split("\n")[0] == f"commit:{commit} (1, 32)"
