"""What the processors of all rooms have in common: a file with exactly their settings."""

import inspect
from typing import Any

from transformers.feature_extraction_utils import FeatureExtractionMixin

from fm_med.errors import InputError

# Transformers writes the first; the second is what a multimodal processor's folder may carry.
FOREIGN_KEYS = {"feature_extractor_type", "processor_class"}


class StrictProcessor(FeatureExtractionMixin):
    """A processor whose `preprocessor_config.json` must hold all of its settings and no others.

    A processor that guesses a missing setting would feed the encoder something that it was not
    trained on.
    """

    @classmethod
    def from_dict(cls, feature_extractor_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Build a processor from the keys of its file.

        Args:
            feature_extractor_dict: Content of `preprocessor_config.json`.
            kwargs: Settings that replace those of the file.

        Raises:
            InputError: Keys are missing or unknown.
        """
        known = set(inspect.signature(cls.__init__).parameters) - {"self"}
        found = {k: v for k, v in feature_extractor_dict.items() if k not in FOREIGN_KEYS}
        for problem, keys in (
            ("lacks", known - found.keys()),
            ("has unknown", found.keys() - known),
        ):
            if keys:
                raise InputError(
                    f"preprocessor_config.json {problem} keys {', '.join(sorted(keys))}; "
                    f"{cls.__name__} has exactly {', '.join(sorted(known))}"
                )
        return super().from_dict(found, **kwargs)
