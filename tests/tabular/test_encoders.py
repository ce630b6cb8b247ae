"""What every encoder of tables owes its callers."""

import itertools

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from fm_med.errors import InputError
from fm_med.tabular.encoders import ENCODERS
from fm_med.tabular.lstm_attention import LstmAttentionConfig
from fm_med.tabular.malnet_paper import MalnetPaperConfig
from fm_med.tabular.tabm import TabmConfig, piecewise_linear

BINS = [[-2.0, -0.5, 0.0, 0.5, 2.0], [-1.0, 1.0], [-1.0, 0.0, 1.0]]
TABLE = {"num_numeric": 3, "levels": [4, 5], "bins": BINS}
EXAMPLES = {
    "lstm_attention": LstmAttentionConfig(**TABLE, hidden_size=16, num_heads=2, dropout=0.0),
    "malnet_paper": MalnetPaperConfig(**TABLE, hidden_size=16, num_heads=2, dropout=0.0),
    "tabm": TabmConfig(**TABLE, hidden_size=8, num_members=3, embedding_size=4, dropout=0.0),
}
SEQUENTIAL = ("lstm_attention",)  # the others read the latest visit or no order

# peft asks transformers by an old name
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
every_encoder = pytest.mark.parametrize("name", ENCODERS)


def build(name, seed=0):
    torch.manual_seed(seed)
    return ENCODERS[name](EXAMPLES[name]).eval()


def example(batch=3, visits=4, seed=1):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.arange(batch) % visits + 1
    return {
        "numeric": torch.randn(batch, visits, 3, generator=generator),
        "categorical": torch.stack(
            [torch.randint(k, (batch, visits), generator=generator) for k in (4, 5)], -1
        ),
        "missing": torch.rand(batch, visits, 3, generator=generator) < 0.3,
        "visit_mask": torch.arange(visits) < lengths[:, None],
        "visit_time": torch.rand(batch, visits, generator=generator).cumsum(1),
    }


def rows(inputs, chosen):
    return {name: value[chosen] for name, value in inputs.items()}


def pooled(encoder, inputs):
    with torch.no_grad():
        return encoder(**inputs).pooler_output


def test_every_encoder_has_an_example():
    assert set(EXAMPLES) == set(ENCODERS)


@every_encoder
def test_the_documented_shapes(name):
    encoder = build(name)
    output = encoder(**example(), output_hidden_states=True, output_attentions=True)
    assert output.pooler_output.shape == (3, encoder.config.pooled_size)
    assert output.last_hidden_state.shape[0] == 3
    assert output.last_hidden_state.shape[2] == encoder.config.hidden_size
    assert torch.equal(output.hidden_states[-1], output.last_hidden_state)
    for weights in output.attentions or ():
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
    without = encoder(**example())
    assert without.hidden_states is None and without.attentions is None
    torch.testing.assert_close(without.pooler_output, output.pooler_output, rtol=1e-4, atol=1e-5)


@every_encoder
def test_a_row_does_not_depend_on_the_others_nor_on_their_padding(name):
    encoder, inputs = build(name), example(4)
    alone = rows(inputs, slice(1, 2))
    short = {key: value[:, :2] for key, value in alone.items()}  # row 1 has two visits
    for one in (alone, short):
        torch.testing.assert_close(
            pooled(encoder, one), pooled(encoder, inputs)[1:2], rtol=1e-5, atol=1e-5
        )


@every_encoder
def test_what_padding_holds_has_no_influence(name):
    encoder, inputs = build(name), example(4)
    padding = ~inputs["visit_mask"]
    other = inputs | {
        "numeric": inputs["numeric"].masked_fill(padding[..., None], float("nan")),
        "missing": inputs["missing"] | padding[..., None],
        "categorical": inputs["categorical"].masked_fill(padding[..., None], 3),
        "visit_time": inputs["visit_time"].masked_fill(padding, float("nan")),
    }
    expected = encoder(**inputs, output_hidden_states=True)
    found = encoder(**other, output_hidden_states=True)
    assert torch.equal(expected.pooler_output, found.pooler_output)
    assert torch.equal(expected.last_hidden_state, found.last_hidden_state)


@pytest.mark.parametrize("name", SEQUENTIAL)
@pytest.mark.parametrize("key", ["numeric", "categorical", "missing", "visit_time"])
def test_earlier_visits_and_the_time_between_them_count(name, key):
    encoder, inputs = build(name), example(1) | {"visit_mask": torch.ones(1, 4, dtype=torch.bool)}
    changed = inputs[key].clone()
    changed[:, 1] = {"numeric": 2.0, "visit_time": 0.99 * changed[:, 2], "missing": 1}.get(key, 2)
    if key == "missing":
        changed[:, 1] = ~inputs[key][:, 1]
    assert not torch.allclose(
        pooled(encoder, inputs), pooled(encoder, inputs | {key: changed}), atol=1e-5
    )


@every_encoder
def test_every_parameter_gets_a_gradient(name):
    encoder = build(name).train()
    encoder(**example(32)).pooler_output.square().sum().backward()
    for path, parameter in encoder.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), path
        if not path.endswith("k_proj.bias"):  # shifts all scores of a query alike
            assert parameter.grad.abs().max() > 0, path


@every_encoder
def test_defaults_are_one_complete_table(name):
    encoder, inputs = build(name), example(2, visits=1)
    explicit = inputs | {
        "missing": torch.zeros(2, 1, 3, dtype=torch.bool),
        "categorical": torch.zeros(2, 1, 2, dtype=torch.int64),
        "visit_time": torch.zeros(2, 1),
    }
    assert torch.equal(pooled(encoder, explicit), pooled(encoder, {"numeric": inputs["numeric"]}))


@every_encoder
@pytest.mark.parametrize("kind", ["numeric", "categorical"])
def test_tables_of_one_kind_of_columns(name, kind):
    only = {"num_numeric": 0, "bins": []} if kind == "categorical" else {"levels": []}
    config = type(EXAMPLES[name])(**(EXAMPLES[name].to_dict() | only))
    encoder, inputs = ENCODERS[name](config).eval(), example()
    if kind == "categorical":
        inputs |= {"numeric": torch.zeros(3, 4, 0), "missing": torch.zeros(3, 4, 0).bool()}
    else:
        inputs |= {"categorical": torch.zeros(3, 4, 0, dtype=torch.int64)}
    assert pooled(encoder, inputs).std(0).max() > 0


@every_encoder
def test_rows_without_any_visit_stay_finite(name):
    inputs = example() | {"visit_mask": torch.zeros(3, 4, dtype=torch.bool)}
    assert pooled(build(name), inputs).isfinite().all()


@every_encoder
def test_wrong_shapes_are_refused_in_one_sentence(name):
    encoder, inputs = build(name), example()
    with pytest.raises(InputError, match=r"numeric must be \(batch, visits, 3 columns\).*4, 2\)"):
        encoder(numeric=inputs["numeric"][..., :2])
    with pytest.raises(InputError, match=r"categorical must be \(3, 4, 2\)"):
        encoder(**inputs | {"categorical": inputs["categorical"][..., :1]})
    with pytest.raises(InputError, match=r"visit_mask must be \(3, 4\)"):
        encoder(**inputs | {"visit_mask": inputs["visit_mask"][:, :3]})
    with pytest.raises(InputError, match="no visits"):
        encoder(numeric=inputs["numeric"][:, :0])


@pytest.mark.parametrize("name", ["lstm_attention", "malnet_paper"])
@pytest.mark.parametrize("projection", ["q_proj", "k_proj"])
def test_each_attention_matters(name, projection):
    """An attention over one token, or one whose result is dropped, would not notice."""
    encoder, inputs = build(name), example()
    base = pooled(encoder, inputs)
    (module,) = [module for path, module in encoder.named_modules() if path.endswith(projection)]
    with torch.no_grad():
        module.weight.mul_(-20.0)
    assert not torch.allclose(pooled(encoder, inputs), base, rtol=1e-4, atol=1e-6)


@every_encoder
def test_bfloat16_autocast_is_close(name):
    encoder, inputs = build(name), example()
    exact = pooled(encoder, inputs)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = pooled(encoder, inputs).float()
    assert (rounded - exact).norm() / exact.norm() < 0.03


def adapted(name):
    encoder = build(name)
    config = LoraConfig(
        r=2,
        lora_alpha=8,
        target_modules=list(encoder.lora_targets),
        target_parameters=list(encoder.lora_parameters) or None,
    )
    model = get_peft_model(encoder, config).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            if "lora_B" in path:
                parameter.normal_(std=0.3, generator=generator)
    return model


@every_encoder
@pytest.mark.parametrize("visits", [1, 4])
def test_adapters_act_in_evaluation_mode_and_survive_merging_and_reloading(name, visits, tmp_path):
    inputs = example(visits=visits)
    base, model = pooled(build(name), inputs), adapted(name)
    with_adapter = pooled(model, inputs)
    assert (with_adapter - base).norm() / base.norm() > 0.01
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    reloaded = PeftModel.from_pretrained(build(name), tmp_path).eval()
    torch.testing.assert_close(pooled(reloaded, inputs), with_adapter, rtol=1e-5, atol=1e-5)
    merged = pooled(model.merge_and_unload(), inputs)
    torch.testing.assert_close(merged, with_adapter, rtol=1e-4, atol=1e-4)


@every_encoder
@pytest.mark.parametrize("visits", [1, 4])
def test_every_adapter_gets_a_gradient_even_with_one_visit(name, visits):
    model = adapted(name).train()
    model(**example(16, visits)).pooler_output.square().sum().backward()
    adapters = [(path, p) for path, p in model.named_parameters() if p.requires_grad]
    assert adapters
    for path, parameter in adapters:
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, path


def moved(name):
    """An encoder whose parameters all differ from their initial values."""
    encoder = build(name)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for tensor in (*encoder.parameters(), *encoder.buffers()):
            tensor.add_(0.01 * torch.rand(tensor.shape, generator=generator))
    return encoder


@every_encoder
def test_the_round_trip_through_disk_keeps_every_bit(name, tmp_path):
    encoder = moved(name)
    encoder.save_pretrained(tmp_path)
    loaded = ENCODERS[name].from_pretrained(tmp_path).eval()
    kept = dict(loaded.named_parameters()) | dict(loaded.named_buffers())
    for path, tensor in (*encoder.named_parameters(), *encoder.named_buffers()):
        assert torch.equal(kept[path], tensor), path
    assert torch.equal(pooled(loaded, example()), pooled(encoder, example()))
    assert loaded.config.to_dict() == encoder.config.to_dict() | {"dtype": "float32"} | {
        key: value for key, value in loaded.config.to_dict().items() if key.startswith("_")
    }


@every_encoder
def test_what_a_file_lacks_is_initialised_not_left_as_it_lay_in_memory(name, tmp_path):
    encoder = moved(name)
    encoder.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    for dropped in sorted({path.split(".")[0] for path in weights}):
        rest = {path: w for path, w in weights.items() if path.split(".")[0] != dropped}
        save_file(rest, file, metadata={"format": "pt"})
        loaded = ENCODERS[name].from_pretrained(tmp_path)
        for path, tensor in loaded.state_dict().items():
            if path in rest:
                assert torch.equal(tensor, rest[path]), path  # what was there is not overwritten
            else:
                assert tensor.isfinite().all() and tensor.abs().max() < 10, path
    save_file(weights, file, metadata={"format": "pt"})


@every_encoder
def test_unknown_types_of_settings_are_refused(name):
    with pytest.raises(Exception, match="num_numeric"):
        type(EXAMPLES[name])(num_numeric="three")


def test_unseen_levels_add_nothing():
    """Their vector is never trained, so whatever it holds must not reach the output."""
    for name in ("lstm_attention", "tabm"):
        encoder, inputs = build(name), example(2) | {"categorical": torch.zeros(2, 4, 2).long()}
        before = pooled(encoder, inputs)
        with torch.no_grad():
            encoder.level_cells.weight.add_(3.0)
        assert torch.equal(pooled(encoder, inputs), before)


def test_members_learn_on_their_own():
    """Training shows one member's loss at a time; evaluation averages the predictions."""
    config = TabmConfig(**TABLE, hidden_size=4, num_members=2, embedding_size=2, dropout=0.0)
    torch.manual_seed(0)
    encoder, head = ENCODERS["tabm"](config).double(), torch.nn.Linear(8, 1).double()
    inputs = example(1) | {"numeric": example(1)["numeric"].double()}
    loss = lambda x: (head(x).detach().squeeze(-1) - 1.5).square().mean()  # noqa: E731
    encoder.eval()
    members = encoder(**inputs).last_hidden_state
    single = [torch.zeros_like(members) for _ in range(2)]
    own = 0.0
    for k in range(2):
        single[k][:, k] = 2 * members[:, k]
        own = own + loss(single[k].flatten(1)) / 2
    with torch.no_grad():
        mean = sum(head(x.flatten(1)) for x in single) / 2
        assert torch.allclose(mean, head(pooled(encoder, inputs)))
    encoder.train()
    seen = {round(float(loss(encoder(**inputs).pooler_output)), 9) for _ in range(20)}
    assert seen == {round(float(loss(x.flatten(1))), 9) for x in single}
    assert abs(sum(seen) / 2 - float(own)) < 1e-8


def test_piecewise_linear_encoding_against_its_definition():
    x = torch.tensor([[-3.0, -1.5, 0.5], [0.25, 0.0, -0.5], [9.0, 4.0, 2.0]])
    found = piecewise_linear(x, BINS)
    for row, (column, edges) in itertools.product(range(3), enumerate(BINS)):
        for k, (low, high) in enumerate(itertools.pairwise(edges)):
            share = (float(x[row, column]) - low) / (high - low)
            share = share if k == 0 else max(share, 0.0)
            share = share if k == len(edges) - 2 else min(share, 1.0)
            assert float(found[row, column, k]) == pytest.approx(share)
        assert (found[row, column, len(edges) - 1 :] == 0).all()
