"""What is fine-tuned: an encoder and a prediction head."""

from typing import Self

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from fm_med.heads import PredictionHead


class Predictor(nn.Module):
    """Encode, then predict.

    Args:
        encoder: Returns `pooler_output`; may carry adapters.
        head: Fits the encoder.
        decoder: Rebuilds the input from the last of `hidden_states`; None for none.
        freeze_norms: Keep the running statistics of BatchNorms as they are: an adapter does not
            carry them, so that a model that had changed them would be another one when loaded.
    """

    def __init__(
        self,
        encoder: PreTrainedModel,
        head: PredictionHead,
        *,
        decoder: nn.Module | None = None,
        freeze_norms: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head
        self.decoder = decoder
        self.freeze_norms = freeze_norms

    @property
    def is_frozen(self) -> bool:
        """Whether nothing of the encoder is trained."""
        return not any(parameter.requires_grad for parameter in self.encoder.parameters())

    def train(self, mode: bool = True) -> Self:
        """Switch to training; a frozen encoder stays as it is used later, without dropout."""
        super().train(mode)
        if self.is_frozen:
            self.encoder.eval()
        elif self.freeze_norms:
            for module in self.encoder.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    def forward(self, clinical: Tensor | None = None, **inputs: Tensor) -> dict[str, Tensor]:
        """Predict a batch.

        Args:
            clinical: (batch, covariates) in their own units; None where the head has none.
            inputs: Of the encoder.

        Returns:
            The head's output, and with a decoder `reconstruction`.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.is_frozen):
            output = self.encoder(
                **inputs, **({"output_hidden_states": True} if self.decoder is not None else {})
            )
        predicted = self.head(output.pooler_output, clinical)
        if self.decoder is not None:
            predicted["reconstruction"] = self.decoder(output.hidden_states[-1])
        return predicted
