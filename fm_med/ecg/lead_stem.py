"""From the samples of one lead to tokens: overlapping patches, then residual stages."""

from torch import Tensor, nn
from torch.nn import functional


class PatchStem(nn.Module):
    """Overlapping patches of one lead's samples, each mapped to a token; voltage is kept as it is.

    Args:
        width: Channels of a token.
        patch_samples: Samples of a patch.
        stride: Samples between two patches.
        multiple: Patches that later stages make one token of; surplus ones at the end are left out.

    Shape:
        - signal: (leads, batch, samples) mV -> (leads * batch, width, 1, tokens), channels last.
    """

    def __init__(self, width: int, *, patch_samples: int, stride: int, multiple: int) -> None:
        super().__init__()
        self.multiple = multiple
        self.patch_samples = patch_samples
        self.stride = stride
        self.proj = nn.Linear(patch_samples, width)

    def forward(self, signal: Tensor) -> Tensor:
        """Centre each patch on its `stride` samples."""
        surplus = self.patch_samples - self.stride
        # Padding copies, so that leads and batch can be joined without another copy.
        padded = functional.pad(signal, (surplus // 2, surplus - surplus // 2)).flatten(0, 1)
        patches = padded.unfold(-1, self.patch_samples, self.stride)
        whole = patches.shape[1] // self.multiple * self.multiple
        tokens = functional.relu(self.proj(patches[:, :whole]), inplace=True)
        return tokens.transpose(1, 2).unsqueeze(2)


class Downsampling(nn.Conv2d):
    """A convolution along time whose stride is its length; where that divides the steps, a product.

    Shape:
        - x: (rows, inputs, 1, steps), channels last -> (rows, outputs, 1, steps // stride).
    """

    def forward(self, x: Tensor) -> Tensor:
        """Join the channels of neighbouring steps: that takes half the convolution's time."""
        rows, _, _, steps = x.shape
        stride = self.stride[1]
        if steps % stride:
            return super().forward(x)
        joined = x.squeeze(2).transpose(1, 2).reshape(rows, steps // stride, -1)
        weight = self.weight.squeeze(2).transpose(1, 2).flatten(1)
        return functional.linear(joined, weight, self.bias).transpose(1, 2).unsqueeze(2)


class ResidualStage(nn.Module):
    """Downsample in time, then refine; rows (one lead of one record each) stay apart.

    Shape:
        - x: (rows, inputs, 1, steps) -> (rows, outputs, 1, steps // stride).
    """

    def __init__(self, inputs: int, outputs: int, *, stride: int, kernel_size: int) -> None:
        super().__init__()
        # Convolutions are 2-D of height 1 because only those run channels-last, twice as fast here.
        self.down = Downsampling(inputs, outputs, (1, stride), stride=(1, stride))
        self.norm = nn.GroupNorm(4, outputs)
        self.conv = nn.Conv2d(outputs, outputs, (1, kernel_size), padding=(0, kernel_size // 2))

    def forward(self, x: Tensor) -> Tensor:
        """Keep the voltage on the residual stream: only the branch is normalised."""
        x = functional.relu(self.down(x))
        return x + functional.relu(self.conv(self.norm(x)), inplace=True)
