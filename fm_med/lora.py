"""Low-rank adapters on an encoder, attached, saved and loaded without PEFT's silent failures.

PEFT says nothing when a target matches no layer of some depth, when an adapter lies in a layer that
never calls it, or when a checkpoint lacks adapters; each of these is refused here.
"""

import hashlib
import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel

from fm_med.errors import InputError

Method = Literal["lora", "dora"]
BASE_FILE = "adapter_base.json"


def attach_lora(
    encoder: PreTrainedModel,
    method: Method = "lora",
    *,
    rank: int = 8,
    alpha: float = 16.0,
    dropout: float = 0.0,
    targets: Sequence[str] | None = None,
) -> Any:
    """Freeze an encoder and put trainable adapters into it.

    The encoder is changed in place and goes on being called as before. The head is no part of it:
    it lies outside and is saved by itself, so `modules_to_save` is not needed.

    Args:
        encoder: Names its layers in `lora_targets` and stacked parameters in `lora_parameters`.
        method: "dora" also learns the length of each weight row; not for stacked parameters.
        rank: Of the update.
        alpha: The update is scaled by alpha / rank.
        dropout: Of the adapters' input; not possible with stacked parameters.
        targets: Names of layers (their path's end) instead of the encoder's own.

    Returns:
        The `peft.PeftModel` around the encoder, for `merge` and `save_adapter`.

    Raises:
        InputError: A target matches nothing or cannot carry an adapter, or the encoder names none.
    """
    from peft import LoraConfig, get_peft_model

    layers = tuple(targets) if targets else tuple(getattr(encoder, "lora_targets", ()))
    stacked = () if targets else tuple(getattr(encoder, "lora_parameters", ()))
    if method == "dora":
        stacked = ()  # PEFT knows no DoRA on bare parameters
    if stacked and dropout > 0:
        raise InputError(
            f"the adapters of {type(encoder).__name__} lie on stacked parameters "
            f"({', '.join(stacked)}), which take no dropout; use --lora_dropout 0"
        )
    _refuse_unmatched(encoder, layers, stacked)
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        use_dora=method == "dora",
        target_modules=list(layers),
        target_parameters=list(stacked) or None,
    )
    try:
        with _without_peft_warnings():
            return get_peft_model(encoder, config)
    except (ValueError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"{type(encoder).__name__} cannot carry {method}: {reason}") from error


def _refuse_unmatched(
    encoder: PreTrainedModel, layers: Sequence[str], stacked: Sequence[str]
) -> None:
    """Refuse names that match nothing; PEFT is content when any one of them matches."""
    if not layers and not stacked:
        raise InputError(f"{type(encoder).__name__} names no layers for adapters (lora_targets)")
    modules = [name for name, _ in encoder.named_modules()]
    parameters = [name for name, _ in encoder.named_parameters()]
    for targets, names in ((layers, modules), (stacked, parameters)):
        for target in targets:
            if not any(name == target or name.endswith(f".{target}") for name in names):
                linear = [n for n, m in encoder.named_modules() if isinstance(m, torch.nn.Linear)]
                raise InputError(
                    f"the adapter target {target!r} matches no layer of {type(encoder).__name__}; "
                    f"it has for example {', '.join(linear[:6])}"
                )


def check_adapter(encoder: PreTrainedModel, inputs: dict[str, Tensor]) -> None:
    """Refuse adapters that do not act: one backward pass, in evaluation mode.

    Fused layers read the base weights past their adapters, some of them in evaluation mode only.

    Args:
        encoder: With adapters.
        inputs: Of the encoder, a few rows.

    Raises:
        InputError: An adapter has no gradient.
    """
    was_training = encoder.training
    encoder.eval()
    pooled = encoder(**inputs).pooler_output
    direction = torch.linspace(-1, 1, pooled.numel(), device=pooled.device).view_as(pooled)
    (pooled * direction).sum().backward()
    # The update is B A with B = 0 at first, so that only B's gradient differs from zero.
    silent = [
        name
        for name, parameter in adapter_parameters(encoder)
        if parameter.grad is None or ("lora_B" in name and not parameter.grad.any())
    ]
    encoder.zero_grad()
    encoder.train(was_training)
    if silent:
        raise InputError(
            f"{len(silent)} adapter weight(s) of {type(encoder).__name__} get no gradient, "
            f"first {silent[0]}: the layer does not use its adapter; name other targets"
        )


def adapter_parameters(encoder: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """Yield the adapters' parameters by name."""
    for name, parameter in encoder.named_parameters():
        if "lora_" in name:
            yield name, parameter


def adapter_size(encoder: torch.nn.Module) -> str:
    """Return the size of the adapters for people: weights, share of the encoder, bytes."""
    own = sum(parameter.numel() for _, parameter in adapter_parameters(encoder))
    everything = sum(parameter.numel() for parameter in encoder.parameters())
    return (
        f"{own:,} weights, {own / (everything - own):.1%} of the encoder's, {own * 4 / 1e3:.0f} kB"
    )


def merge(adapter: Any) -> PreTrainedModel:
    """Add the adapters to the weights and return the plain encoder."""
    with _without_peft_warnings():
        return adapter.merge_and_unload()


def save_adapter(adapter: Any, folder: Path, *, base: str, base_folder: Path) -> None:
    """Write the adapters alone, with the name and the hash of the encoder they belong to.

    Args:
        adapter: From `attach_lora`, not merged yet.
        folder: Made if needed.
        base: Folder or Hub id of the encoder, perhaps with `@` and its revision.
        base_folder: Where its files lie on this machine.
    """
    config = adapter.peft_config["default"]
    revision = _revision(base_folder)
    name = base if revision is None else base.partition("@")[0]  # a path may have an @
    config.base_model_name_or_path, config.revision = name, revision
    with _without_peft_warnings():
        # Without the flag PEFT asks the Hub for the base model's vocabulary.
        adapter.save_pretrained(str(folder), save_embedding_layers=False)
    values = {"sha256": file_hash(base_folder / "model.safetensors")}
    (folder / BASE_FILE).write_text(json.dumps(values, indent=1) + "\n")


def load_adapter(encoder: PreTrainedModel, folder: Path, *, base_folder: Path) -> Any:
    """Put saved adapters onto their encoder.

    Args:
        encoder: The encoder they were trained on.
        folder: Written by `save_adapter`.
        base_folder: Where the encoder was read from.

    Returns:
        The `peft.PeftModel` around the encoder, which is changed in place.

    Raises:
        InputError: It is another encoder, or weights are missing, foreign or damaged.
    """
    from peft import PeftModel, get_peft_model_state_dict

    for name in (BASE_FILE, "adapter_model.safetensors"):  # PEFT would take a pickle instead
        if not (folder / name).is_file():
            raise InputError(f"the adapter in {folder} has no {name}; pickles are not read")
    stated = json.loads((folder / BASE_FILE).read_text())
    if stated["sha256"] != file_hash(base_folder / "model.safetensors"):
        raise InputError(f"the adapter in {folder} was trained on other weights than {base_folder}")
    try:
        with _without_peft_warnings():
            adapter = PeftModel.from_pretrained(encoder, str(folder), low_cpu_mem_usage=False)
        saved = load_file(folder / "adapter_model.safetensors")
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"the adapter in {folder} cannot be loaded: {reason}") from error
    expected = get_peft_model_state_dict(adapter, save_embedding_layers=False).keys()
    for kind, names in (
        ("lacks", expected - saved.keys()),
        ("has unknown", saved.keys() - expected),
    ):
        if names:
            raise InputError(f"the adapter in {folder} {kind} weights: {sorted(names)[0]}")
    return adapter


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _revision(folder: Path) -> str | None:
    """Return the commit that a folder of the Hub's cache holds; None elsewhere."""
    return folder.name if folder.parent.name == "snapshots" else None


@contextmanager
def _without_peft_warnings() -> Iterator[None]:
    """PEFT asks transformers by old names and warns of what is not wrong."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
