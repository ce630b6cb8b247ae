import multiprocessing
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from fm_med.errors import InputError
from fm_med.text.encoder import FrozenTextEncoder
from fm_med.text.store import ReportStore, centre


def encoder_of(folder):
    encoder = FrozenTextEncoder(folder, dtype="float32", device="cpu")
    encoder.tokens_per_batch = 64
    return encoder


def many(count):
    return [f"sinus rhythm, rate {number}, left axis v{number % 6}" for number in range(count)]


def test_embeddings_are_the_encoders_and_in_order(bert_folder, tmp_path, reports):
    encoder = encoder_of(bert_folder)
    store = ReportStore(tmp_path, encoder)
    texts = [*reports, reports[2], f"  {reports[0]}\n", reports[2].replace(" ", "  ")]
    np.testing.assert_allclose(
        store.embed(texts),
        encoder.encode([*reports, reports[2], reports[0], reports[2]]),
        atol=1e-5,
    )
    assert store.forward_passes == len(reports)


def test_second_store_encodes_nothing_and_loads_no_weights(bert_folder, tmp_path, reports):
    first = ReportStore(tmp_path, encoder_of(bert_folder)).embed(reports)
    encoder = encoder_of(bert_folder)
    store = ReportStore(tmp_path, encoder)
    np.testing.assert_array_equal(store.embed(reports[::-1]), first[::-1])
    assert store.forward_passes == 0
    assert "model" not in vars(encoder)
    store.embed([*reports, "a new report"])
    assert store.forward_passes == 1


def test_distinct_rows_and_their_numbers(bert_folder, tmp_path):
    store = ReportStore(tmp_path, encoder_of(bert_folder))
    embeddings, row = store.embed_distinct(["b", "a", "b", "a ", "c"])
    assert embeddings.shape == (3, 32)
    assert row.tolist() == [0, 1, 0, 1, 2]


def test_other_options_do_not_mix(bert_folder, tmp_path, reports):
    a = ReportStore(tmp_path, encoder_of(bert_folder))
    b = ReportStore(tmp_path, FrozenTextEncoder(bert_folder, pooling="cls", dtype="float32"))
    assert np.abs(a.embed(reports) - b.embed(reports)).max() > 0.01
    assert b.forward_passes == len(reports)


def test_blank_report_is_refused_with_its_number(bert_folder, tmp_path):
    with pytest.raises(InputError, match="text 1 is blank"):
        ReportStore(tmp_path, encoder_of(bert_folder)).embed(["normal", " \n"])


def _embed(folder, root, start, results):
    store = ReportStore(root, encoder_of(folder))
    start.wait(timeout=120)
    embeddings = store.embed(many(60))
    results.put((store.forward_passes, embeddings))


def test_two_processes_compute_each_text_once(bert_folder, tmp_path):
    context = multiprocessing.get_context("spawn")
    start, results = context.Barrier(2), context.Queue()
    process = context.Process(target=_embed, args=(bert_folder, tmp_path, start, results))
    process.start()
    _embed(bert_folder, tmp_path, start, results)
    answers = [results.get(timeout=120) for _ in range(2)]
    process.join(timeout=120)
    assert sum(passes for passes, _ in answers) == 60
    np.testing.assert_array_equal(answers[0][1], answers[1][1])


def test_kill_in_the_middle_keeps_what_is_done(bert_folder, tmp_path):
    code = (
        "import sys, time\n"
        "from fm_med.text.encoder import FrozenTextEncoder\n"
        "from fm_med.text.store import ReportStore\n"
        "encoder = FrozenTextEncoder(sys.argv[1], dtype='float32', device='cpu')\n"
        "encoder.tokens_per_batch = 64\n"
        "whole = encoder._embed\n"
        "def slowly(ids):\n"
        "    time.sleep(0.1)\n"
        "    return whole(ids)\n"
        "encoder._embed = slowly\n"
        "texts = [f'sinus rhythm, rate {n}, left axis v{n % 6}' for n in range(200)]\n"
        "ReportStore(sys.argv[2], encoder).embed(texts)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(bert_folder), str(tmp_path)])
    store = ReportStore(tmp_path, encoder_of(bert_folder))
    deadline = time.monotonic() + 60
    while store._complete_rows() < 10 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    done = store._complete_rows()
    assert 10 <= done < 200
    embeddings = store.embed(many(200))
    assert store.forward_passes == 200 - done
    np.testing.assert_allclose(embeddings, store.encoder.encode(many(200)), atol=1e-5)


@pytest.mark.parametrize("file", ["rows.f32", "index.bin"])
@pytest.mark.parametrize("cut", [1, 30, 200])
def test_torn_tail_is_computed_again(bert_folder, tmp_path, file, cut):
    texts = many(20)
    first = ReportStore(tmp_path, encoder_of(bert_folder))
    expected = first.embed(texts)
    path = first.folder / file
    os.truncate(path, path.stat().st_size - cut)
    row = 128 if file == "rows.f32" else 20
    lost = -(-cut // row)
    for missing in (lost, 0):
        store = ReportStore(tmp_path, encoder_of(bert_folder))
        np.testing.assert_allclose(store.embed(texts), expected, atol=1e-5)
        assert store.forward_passes == missing


@pytest.mark.parametrize("file", ["rows.f32", "index.bin"])
def test_damaged_bytes_are_noticed_and_computed_again(bert_folder, tmp_path, file):
    texts = many(20)
    first = ReportStore(tmp_path, encoder_of(bert_folder))
    expected = first.embed(texts)
    path = first.folder / file
    content = bytearray(path.read_bytes())
    content[5] ^= 64
    path.write_bytes(content)
    for missing in (1, 0):
        store = ReportStore(tmp_path, encoder_of(bert_folder))
        np.testing.assert_allclose(store.embed(texts), expected, atol=1e-5)
        assert store.forward_passes == missing


def test_centring_uses_the_training_mean(bert_folder, tmp_path, reports):
    embeddings = ReportStore(tmp_path, encoder_of(bert_folder)).embed(reports)
    centred, mean = centre(embeddings[:4])
    np.testing.assert_allclose(centred.mean(0), 0, atol=1e-6)
    test, same = centre(embeddings[4:], mean)
    np.testing.assert_allclose(test, embeddings[4:] - embeddings[:4].mean(0), atol=1e-6)
    np.testing.assert_array_equal(same, mean)
