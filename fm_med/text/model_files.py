"""Find a Hugging Face text model, on disk or on the Hub, and say which version of it this is."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError
from transformers import AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from fm_med.errors import InputError
from fm_med.quiet import quietly

# The HTTP library's own error: httpx up to huggingface_hub 1, httpx2 from 2 on.
_HTTP_ERROR: type[Exception] = HfHubHTTPError.__bases__[0]
_WEIGHT_SUFFIXES = {".safetensors", ".bin"}
_CONTENT_SUFFIXES = {*_WEIGHT_SUFFIXES, ".json", ".txt", ".model", ".jinja"}


@dataclass(frozen=True)
class ModelFiles:
    """Where a model lies and which version of it.

    Attributes:
        location: A local folder or a Hub id, as transformers takes it.
        revision: Commit on the Hub; None for a folder.
        version: `commit:<hash>` or `content:<hash>`; equal versions give equal embeddings.
    """

    location: str
    revision: str | None
    version: str

    def load(self, auto_class: Any, **options: Any) -> Any:
        """Load one part of the model through a transformers Auto class; no code of others runs.

        Raises:
            InputError: It is not there, damaged, or needs code of its own.
        """
        try:
            with quietly():
                return auto_class.from_pretrained(
                    self.location,
                    revision=self.revision or "main",
                    trust_remote_code=False,
                    **options,
                )
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            reason = " ".join(str(error).split())[:300]
            raise InputError(
                f"{self.location} cannot be loaded as a text model: {reason}"
            ) from error

    def load_tokenizer(self) -> PreTrainedTokenizerBase:
        """Load the tokenizer; transformers makes an empty one where its files are missing."""
        tokenizer = self.load(AutoTokenizer)
        if len(tokenizer) <= len(tokenizer.all_special_ids):
            raise InputError(f"{self.location} has no tokenizer: every word would be unknown")
        return tokenizer

    def load_network(self, **options: Any) -> PreTrainedModel:
        """Load the network; transformers draws weights at random that the files lack."""
        network, loading = self.load(AutoModel, output_loading_info=True, **options)
        # Checkpoints of masked language models lack BERT's pooler, which is not read here.
        missing = sorted(name for name in loading["missing_keys"] if "pooler." not in name)
        if missing:
            raise InputError(
                f"the weights of {self.location} lack {len(missing)} tensors, first {missing[0]}"
            )
        return network


def locate(name_or_path: str | Path, *, revision: str | None = None) -> ModelFiles:
    """Resolve a folder or Hub id to one fixed version.

    A version in the Hub's local cache is used without asking the network, so that a run, its
    resumption and its sister processes all read the same one; name a `revision` for another.

    Raises:
        InputError: The folder holds no model, or the Hub id cannot be resolved.
    """
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        return ModelFiles(str(path), None, f"content:{_content_hash(path)}")
    name = str(name_or_path)
    if path.exists() or path.is_absolute() or name.startswith((".", "~")):
        raise InputError(f"the text model {name} is not a folder")
    commit = _cached_commit(name, revision) or _hub_commit(name, revision)
    return ModelFiles(name, commit, f"commit:{commit}")


def _cached_commit(name: str, revision: str | None) -> str | None:
    """Return the commit of a model in the local cache, or None."""
    try:
        config = hf_hub_download(name, "config.json", revision=revision, local_files_only=True)
    except LocalEntryNotFoundError:
        return None
    except HFValidationError:
        raise InputError(
            f"the text model {name!r} is neither a folder here nor a valid Hugging Face Hub id"
        ) from None
    return Path(config).parent.name  # .../snapshots/<commit>/config.json


def _hub_commit(name: str, revision: str | None) -> str:
    """Ask the Hub for the commit of a model; one request, no retries."""
    try:
        commit = HfApi().model_info(name, revision=revision, timeout=10).sha
    except (_HTTP_ERROR, OSError) as error:
        reason = str(error).strip().splitlines()[-1]
        raise InputError(
            f"the text model {name} is not in the local Hugging Face cache and the Hub did not "
            f"give it ({reason}); download it where there is a network, or name a local folder"
        ) from None
    if commit is None:
        raise InputError(f"the Hub names no commit for the text model {name}")
    return commit


def _content_hash(folder: Path) -> str:
    """Hash configuration, tokenizer and weights of a local model, names and bytes.

    Raises:
        InputError: The folder has no configuration or no weights.
    """
    files = sorted(file for file in folder.iterdir() if file.suffix in _CONTENT_SUFFIXES)
    if not (folder / "config.json").is_file():
        raise InputError(f"the folder {folder} holds no Hugging Face model: no config.json")
    if not any(file.suffix in _WEIGHT_SUFFIXES for file in files):
        raise InputError(f"the folder {folder} holds no weights (*.safetensors or *.bin)")
    total = hashlib.blake2b(digest_size=16)
    for file in files:
        with file.open("rb") as handle:
            digest = hashlib.file_digest(handle, lambda: hashlib.blake2b(digest_size=16))
        total.update(file.name.encode() + b"\0" + digest.digest())
    return total.hexdigest()
