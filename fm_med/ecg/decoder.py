"""Back from an encoder's time features to the signal: the auxiliary task of the seed paper."""

from torch import Tensor, nn
from torch.nn import functional


class ReconstructionDecoder(nn.Module):
    """Rebuild all leads from the last entry of an encoder's `hidden_states`.

    Each time feature is decoded to its stretch of signal, then a convolution smooths the joints.

    Args:
        width: Channels of the time features, the encoder's `config.time_width`.
        samples: Length of the signal to rebuild.
        leads: Leads to rebuild.
        samples_per_token: Samples that one time feature is decoded to, before the whole is
            interpolated to `samples`.
        hidden: Channels between the two convolutions.

    Shape:
        - features: (batch, time, width) -> (batch, leads, samples) mV.
    """

    def __init__(
        self,
        width: int,
        *,
        samples: int,
        leads: int = 12,
        samples_per_token: int = 16,
        hidden: int = 64,
    ) -> None:
        super().__init__()
        self.samples = samples
        self.expand = nn.ConvTranspose1d(width, hidden, samples_per_token, stride=samples_per_token)
        self.smooth = nn.Conv1d(hidden, leads, 9, padding=4)

    def forward(self, features: Tensor) -> Tensor:
        """Return the signal."""
        x = functional.gelu(self.expand(features.transpose(1, 2)))
        if x.shape[-1] != self.samples:
            x = functional.interpolate(x, size=self.samples, mode="linear", align_corners=False)
        return self.smooth(x)
