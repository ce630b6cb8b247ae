"""Tiny cohorts, tiny text models and one finished run, each made once."""

import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch
from in_process import REPOSITORY

from fm_med.cohort import CohortCard, CohortWriter, open_cohort
from fm_med.ecg.leads import LEADS
from fm_med.ecg.storage import SIGNAL_SCHEMA
from fm_med.sources.ptbxl import STATEMENTS_TYPE
from fm_med.sources.simulated import make_simulated
from fm_med.text.train import train_text_model

# Two epochs of a few steps on the simulated cohort.
SHORT = ("--num_epochs", 2, "--per_device_batch_size", 16)
# A finding of the simulation, its SCP code, and the code's diagnostic superclass if it has one.
CODES = {
    "AFIB": ("AFIB", None),
    "1AVB": ("1AVB", "CD"),
    "LBBB": ("CLBBB", "CD"),
    "RBBB": ("CRBBB", "CD"),
    "LVH": ("LVH", "HYP"),
    "AMI": ("AMI", "MI"),
    "IMI": ("IMI", "MI"),
    "STD": ("STD_", "STTC"),
    "LNGQT": ("LNGQT", "STTC"),
}
SUPERCLASSES = ("NORM", "MI", "STTC", "CD", "HYP")


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    """A folder for all of it; the cache lies in there, too."""
    folder = tmp_path_factory.mktemp("recipes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FM_MED_CACHE", str(folder / "cache"))
        yield folder


@pytest.fixture(scope="session")
def simulated(place):
    """The simulated cohort of 120 persons."""
    return make_simulated(place / "simulated", subjects=120, seed=3, workers=1)


@pytest.fixture(scope="session")
def coded(place, simulated):
    """Some of the simulated recordings with SCP codes and superclasses, like PTB-XL."""
    source = open_cohort(simulated)
    kept = ["subject_id", "record_id", *(field.name for field in SIGNAL_SCHEMA), "report"]
    schema = source.splits["train"].schema
    fields = [pa.field("split", pa.string()), *(schema.field(name) for name in kept)]
    fields += [pa.field("scp_codes", STATEMENTS_TYPE)]
    fields += [pa.field(name, pa.bool_()) for name in SUPERCLASSES]
    card = CohortCard(
        name="coded",
        modality="ecg",
        units="mV",
        sampling_rate=100.0,
        leads=list(LEADS),
        label_sets={"superclass": list(SUPERCLASSES)},
    )
    with CohortWriter(place / "coded", card, pa.schema(fields)) as writer:
        for split, rows in (("train", 40), ("validation", 12), ("test", 24)):
            table = source.rows(split, np.arange(rows), [*kept, *CODES])
            writer.write(split, [with_codes(row) for row in table.to_pylist()])
    return place / "coded"


def with_codes(row):
    found = [CODES[name] for name in CODES if row.pop(name)] or [("NORM", "NORM")]
    row["scp_codes"] = [{"code": code, "likelihood": 100.0} for code, _ in found]
    return row | {name: name in [group for _, group in found] for name in SUPERCLASSES}


@pytest.fixture(scope="session")
def bert(place, simulated):
    """A very small BERT that was not trained, with the word pieces of the simulated reports."""
    reports = open_cohort(simulated).column("train", "report")
    return train_text_model(
        reports, place / "bert", num_epochs=0, hidden_size=32, layers=1, progress=False
    )


@pytest.fixture(scope="session")
def llama(place, simulated):
    """A very small decoder; its tokenizer has no padding token, as Llama's own."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(open_cohort(simulated).column("train", "report"), trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", model_max_length=128
    )
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=64,
        max_position_embeddings=128,
    )
    with torch.random.fork_rng():
        torch.manual_seed(1)
        LlamaForCausalLM(config).save_pretrained(place / "llama")
    fast.save_pretrained(place / "llama")
    return place / "llama"


@pytest.fixture(scope="session")
def from_shell(place):
    """Return a function that gives the command line of a recipe as a shell would start it."""

    def command(*argv):
        script = REPOSITORY / "recipes" / "ecg_pretrain.py"
        return [sys.executable, "-W", "error", str(script), *map(str, argv)]

    return command


@pytest.fixture(scope="session")
def finished(place, simulated, bert, from_shell):
    """A whole run, started from a shell: folder, arguments, steps per epoch, what it printed."""
    argv = ("--cohort", simulated, "--text_encoder", bert, *SHORT)
    folder = place / "run"
    done = subprocess.run(
        from_shell(*argv, "--output", folder), capture_output=True, text=True, env=dict(os.environ)
    )
    assert done.returncode == 0, done.stderr
    pairs = sum(bool(text) for text in open_cohort(simulated).column("train", "report"))
    return SimpleNamespace(
        folder=folder,
        argv=argv,
        pairs=pairs,
        steps=pairs // 16,
        stdout=done.stdout,
        stderr=done.stderr,
    )
