"""A residual network over all leads at once: the usual baseline, without attention."""

from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from fm_med.blocks import initialise
from fm_med.ecg.inputs import check_signal, silence_absent_leads


@strict
class ResNet1dConfig(PreTrainedConfig):
    """Sizes of the residual network; the defaults are ResNet-18 with 3.85 M parameters.

    Args:
        num_leads: Leads of the input.
        widths: Channels of each stage; every stage but the first halves the time steps.
        depths: Residual blocks of each stage.
        norm_groups: Groups of each GroupNorm; must divide every width.
    """

    model_type = "fm_med_resnet1d"

    num_leads: int = 12
    widths: tuple[int, ...] | list[int] = (64, 128, 256, 512)
    depths: tuple[int, ...] | list[int] = (2, 2, 2, 2)
    norm_groups: int = 8

    @property
    def hidden_size(self) -> int:
        """Channels of the last stage."""
        return self.widths[-1]

    @property
    def pooled_size(self) -> int:
        """Width of the pooled output."""
        return self.widths[-1]

    @property
    def time_width(self) -> int:
        """Channels of the time features, the last of `hidden_states`."""
        return self.hidden_size


class ResidualBlock(nn.Module):
    """Two convolutions with GroupNorm and a skip connection.

    Shape:
        - x: (batch, inputs, steps) -> (batch, outputs, ceil(steps / stride)).
    """

    def __init__(self, inputs: int, outputs: int, *, stride: int, groups: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.GroupNorm(groups, outputs)
        self.conv2 = nn.Conv1d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(groups, outputs)
        self.skip: nn.Module = nn.Identity()
        if stride > 1 or inputs != outputs:
            self.skip = nn.Sequential(
                nn.Conv1d(inputs, outputs, 1, stride=stride, bias=False),
                nn.GroupNorm(groups, outputs),
            )

    def forward(self, x: Tensor) -> Tensor:
        """Return the refined features."""
        y = functional.relu(self.norm1(self.conv1(x)))
        return functional.relu(self.norm2(self.conv2(y)) + self.skip(x))


class ResNet1dModel(PreTrainedModel):
    """Encode an ECG of any length; the leads are the channels of the first convolution.

    Shape:
        - signal: (batch, 12, samples) mV, at least one sample.
        - pooler_output: (batch, 512), the mean over time.
        - last_hidden_state: (batch, tokens, 512), a token for 32 samples.

    References:
        He et al., "Deep residual learning", CVPR 2016; in one dimension as in Liu et al., "MERL",
        ICML 2024, with GroupNorm in place of BatchNorm.
    """

    config_class = ResNet1dConfig
    base_model_prefix = "encoder"
    main_input_name = "signal"
    lora_targets: tuple[str, ...] = ("conv1", "conv2")
    lora_parameters: tuple[str, ...] = ()

    def __init__(self, config: ResNet1dConfig) -> None:
        super().__init__(config)
        groups, first = config.norm_groups, config.widths[0]
        self.stem = nn.Sequential(
            nn.Conv1d(config.num_leads, first, 7, stride=2, padding=3, bias=False),
            nn.GroupNorm(groups, first),
            nn.ReLU(),
            nn.MaxPool1d(3, stride=2, padding=1),
        )
        blocks, before = [], first
        for stage, (width, depth) in enumerate(zip(config.widths, config.depths)):
            for block in range(depth):
                stride = 2 if stage > 0 and block == 0 else 1
                blocks.append(ResidualBlock(before, width, stride=stride, groups=groups))
                before = width
        self.blocks = nn.Sequential(*blocks)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Fill what a checkpoint may lack."""
        if not initialise(module):
            super()._init_weights(module)

    def forward(
        self,
        signal: Tensor,
        lead_mask: Tensor | None = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
    ) -> BaseModelOutputWithPooling:
        """Encode a batch.

        Args:
            signal: (batch, leads, samples) mV.
            lead_mask: (batch, leads) bool, True where present; absent leads are zeroed.
            output_attentions: Gives an empty tuple: there is no attention here.
            output_hidden_states: Also return `hidden_states`: the time features
                (batch, tokens, 512).

        Raises:
            InputError: Wrong number of leads, or no samples.
        """
        lead_mask = check_signal(signal, lead_mask, leads=self.config.num_leads, min_samples=1)
        x = self.blocks(self.stem(silence_absent_leads(signal, lead_mask))).transpose(1, 2)
        return BaseModelOutputWithPooling(
            last_hidden_state=x,
            pooler_output=x.mean(1),
            hidden_states=(x,) if output_hidden_states else None,
            attentions=() if output_attentions else None,
        )
