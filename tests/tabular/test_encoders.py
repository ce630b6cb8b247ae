"""What encoders of tables owe their callers beyond the contract of every encoder."""

import itertools

import pytest
import torch
from encoder_examples import EXAMPLES, TABLE, build, pooled
from encoder_examples import table as example
from peft import LoraConfig, PeftModel, get_peft_model

from fm_med.errors import InputError
from fm_med.tabular.encoders import ENCODERS
from fm_med.tabular.tabm import TabmConfig, piecewise_linear

BINS = TABLE["bins"]
SEQUENTIAL = ("lstm_attention",)  # the others read the latest visit or no order

# peft asks transformers by an old name
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
every_encoder = pytest.mark.parametrize("name", ENCODERS)
every_trainable_encoder = pytest.mark.parametrize(
    "name", [name for name in ENCODERS if not EXAMPLES[name].weightless]
)


def rows(inputs, chosen):
    return {name: value[chosen] for name, value in inputs.items()}


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
    only = {"levels": [], "blank": []}
    if kind == "categorical":
        only = {"num_numeric": 0, "bins": [], "quantiles": [], "flagged": []}
    config = type(EXAMPLES[name].config)(**(EXAMPLES[name].config.to_dict() | only))
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


@every_trainable_encoder
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


@every_trainable_encoder
@pytest.mark.parametrize("visits", [1, 4])
def test_every_adapter_gets_a_gradient_even_with_one_visit(name, visits):
    model = adapted(name).train()
    model(**example(16, visits=visits)).pooler_output.square().sum().backward()
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
