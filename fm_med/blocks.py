"""Attention blocks that every encoder is built from; adapters can reach each of their projections.

`nn.TransformerEncoderLayer` and `nn.MultiheadAttention` are not used: in evaluation mode the first
takes a fused path that ignores LoRA, and the second never gives its output projection a gradient.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import initialization as init

FEW_TOKENS = 64  # per head; measured with 31


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    key_mask: Tensor | None = None,
    dropout: float = 0.0,
    need_weights: bool = False,
) -> tuple[Tensor, Tensor | None]:
    r"""Scaled dot-product attention, :math:`\mathrm{softmax}(q k^\top / \sqrt{d})\, v`.

    Args:
        query: (..., heads, queries, dim), with at least one dimension before the heads.
        key: (..., heads, keys, dim).
        value: (..., heads, keys, value_dim).
        key_mask: True where a key takes part, broadcastable to (..., heads, queries, keys); a
            query without any key attends to all of them evenly instead of becoming NaN.
        dropout: Share of the weights set to zero; the caller passes 0 in evaluation.
        need_weights: Return the weights too.

    Returns:
        (..., heads, queries, value_dim), and the weights (..., heads, queries, keys) or None.
    """
    bias = None
    if key_mask is not None:
        lowest = torch.finfo(query.dtype).min
        bias = torch.zeros_like(key_mask, dtype=query.dtype).masked_fill(~key_mask, lowest)
    # On a CPU plain steps are faster than the fused kernel in bfloat16 (1.5 times, for its backward
    # pass is slow), and for few tokens and one head (1.3 times, for there is little to fuse).
    few = query.shape[-3] == 1 and key.shape[-2] <= FEW_TOKENS
    plain = query.device.type == "cpu" and (query.dtype == torch.bfloat16 or few)
    if not (plain or need_weights):
        # The fused kernels take four dimensions only.
        batch = query.shape[:-3]
        if bias is not None:
            bias = bias.expand(*batch, *bias.shape[-3:]).flatten(0, -4)
        query, key, value = (x.flatten(0, -4) for x in (query, key, value))
        context = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=bias, dropout_p=dropout
        )
        return context.unflatten(0, batch), None
    scores = (query / math.sqrt(query.shape[-1])) @ key.transpose(-2, -1)
    weights = (scores if bias is None else scores + bias).softmax(-1)
    context = functional.dropout(weights, dropout, training=dropout > 0).to(value.dtype) @ value
    return context, weights if need_weights else None


def split_heads(x: Tensor, heads: int) -> Tensor:
    """Turn (..., tokens, width) into (..., heads, tokens, width / heads)."""
    return x.unflatten(-1, (heads, -1)).transpose(-3, -2)


def merge_heads(x: Tensor) -> Tensor:
    """Undo `split_heads`."""
    return x.transpose(-3, -2).flatten(-2)


def sinusoidal_positions(tokens: int, width: int, *, like: Tensor) -> Tensor:
    r"""Sines and cosines of the position, computed for any length, with nothing stored.

    Args:
        tokens: Number of positions.
        width: Even number of channels.
        like: Gives the device and dtype.

    Returns:
        (tokens, width): :math:`\sin(t\,\omega_i)` in channel 2i, :math:`\cos(t\,\omega_i)` in
        channel 2i + 1, with :math:`\omega_i = 10000^{-2i/width}`.

    References:
        Vaswani et al., "Attention is all you need", 2017.
    """
    position = torch.arange(tokens, device=like.device, dtype=torch.float32)[:, None]
    channel = torch.arange(width // 2, device=like.device, dtype=torch.float32)
    angle = position * torch.exp(channel * (-2 * math.log(10000.0) / width))
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1).to(like.dtype)


class TransformerBlock(nn.Module):
    """Self-attention and a two-layer perceptron, each normalised first and added to its input.

    Args:
        width: Channels of a token.
        heads: Attention heads; must divide `width`.
        hidden: Channels inside the perceptron.
        dropout: On attention weights and on what is added to the residual stream.

    Shape:
        - x: (..., tokens, width), the same out.
        - weights, if asked for: (..., heads, tokens, tokens).

    References:
        Xiong et al., "On layer normalization in the transformer architecture", ICML 2020 (pre-LN).
    """

    def __init__(self, width: int, *, heads: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.norm1 = nn.LayerNorm(width)
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(
        self, x: Tensor, *, key_mask: Tensor | None = None, need_weights: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Return the new tokens and, if asked for, the attention weights.

        `key_mask` is (..., tokens) bool, True where a token may be attended to.
        """
        dropout = self.dropout if self.training else 0.0
        y = self.norm1(x)
        context, weights = attend(
            split_heads(self.q_proj(y), self.heads),
            split_heads(self.k_proj(y), self.heads),
            split_heads(self.v_proj(y), self.heads),
            key_mask=None if key_mask is None else key_mask[..., None, None, :],
            dropout=dropout,
            need_weights=need_weights,
        )
        x = x + functional.dropout(self.out_proj(merge_heads(context)), dropout)
        y = functional.dropout(functional.gelu(self.fc1(self.norm2(x))), dropout)
        return x + functional.dropout(self.fc2(y), dropout), weights


class GroupLinear(nn.Module):
    """One linear layer per group (for an ECG: per lead), all of them in one batched product.

    The parameter is `group_weight`, so that LoRA's `target_parameters` can name the stacked
    projections without hitting the plain ones.

    Shape:
        - x: (groups, rows, inputs) -> (groups, rows, outputs).
    """

    def __init__(self, groups: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.group_weight = nn.Parameter(torch.empty(groups, inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(groups, 1, outputs))
        nn.init.normal_(self.group_weight, std=self.standard_deviation())

    def standard_deviation(self) -> float:
        """Return Xavier's spread of one group's weights."""
        _, inputs, outputs = self.group_weight.shape
        return math.sqrt(2 / (inputs + outputs))

    def forward(self, x: Tensor, norm: "GroupLayerNorm | None" = None) -> Tensor:
        """Apply group i's layer to x[i], which had group i's scale and shift of `norm` before it.

        Weights are few beside tokens: the scale goes into the weights, the shift into the bias.
        """
        if norm is None:
            return torch.baddbmm(self.bias, x, self.group_weight)
        bias = torch.baddbmm(self.bias, norm.bias[:, None], self.group_weight)
        return torch.baddbmm(bias, x, norm.weight[:, :, None] * self.group_weight)


class GroupLayerNorm(nn.Module):
    """Layer normalisation over the channels with a scale and a shift per group.

    It only normalises: scale and shift are for the `GroupLinear`s that read its output.

    Shape:
        - x: (groups, ..., width), the same out.
    """

    def __init__(self, groups: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(groups, width))
        self.bias = nn.Parameter(torch.zeros(groups, width))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each token by its own mean and variance."""
        return functional.layer_norm(x, x.shape[-1:])


class GroupTransformerBlock(nn.Module):
    """A `TransformerBlock` with its own weights for each group, computed for all groups at once.

    Args:
        groups: Number of independent sets of weights.
        width: Channels of a token.
        heads: Attention heads; must divide `width`.
        hidden: Channels inside the perceptron.
        dropout: As in `TransformerBlock`.

    Shape:
        - x: (groups, batch, tokens, width), the same out; nothing passes between groups.
        - weights, if asked for: (groups, batch, heads, tokens, tokens).
    """

    def __init__(
        self, groups: int, width: int, *, heads: int, hidden: int, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.norm1 = GroupLayerNorm(groups, width)
        self.q_proj = GroupLinear(groups, width, width)
        self.k_proj = GroupLinear(groups, width, width)
        self.v_proj = GroupLinear(groups, width, width)
        self.out_proj = GroupLinear(groups, width, width)
        self.norm2 = GroupLayerNorm(groups, width)
        self.fc1 = GroupLinear(groups, width, hidden)
        self.fc2 = GroupLinear(groups, hidden, width)

    def forward(self, x: Tensor, *, need_weights: bool = False) -> tuple[Tensor, Tensor | None]:
        """Return the new tokens and, if asked for, the attention weights."""
        dropout = self.dropout if self.training else 0.0
        rows = x.shape[1:3]
        y = self.norm1(x).flatten(1, 2)
        context, weights = attend(
            split_heads(self.q_proj(y, self.norm1).unflatten(1, rows), self.heads),
            split_heads(self.k_proj(y, self.norm1).unflatten(1, rows), self.heads),
            split_heads(self.v_proj(y, self.norm1).unflatten(1, rows), self.heads),
            dropout=dropout,
            need_weights=need_weights,
        )
        y = self.out_proj(merge_heads(context).flatten(1, 2))
        x = x + functional.dropout(y, dropout).unflatten(1, rows)
        y = functional.gelu(self.fc1(self.norm2(x).flatten(1, 2), self.norm2))
        y = self.fc2(functional.dropout(y, dropout))
        return x + functional.dropout(y, dropout).unflatten(1, rows), weights


def initialise(module: nn.Module) -> bool:
    """Fill one module's parameters; an encoder's `_init_weights` calls this first.

    Only `transformers.initialization` is used: it leaves alone what a checkpoint has filled.

    Returns:
        Whether the module was of a kind this function knows.
    """
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.ConvTranspose1d):
        init.kaiming_normal_(module.weight, nonlinearity="relu")
    elif isinstance(module, nn.Linear):
        init.xavier_uniform_(module.weight)
    elif isinstance(module, GroupLinear):
        init.normal_(module.group_weight, std=module.standard_deviation())
    elif isinstance(module, GroupLayerNorm):
        init.ones_(module.weight)
    else:
        return False
    if module.bias is not None:
        init.zeros_(module.bias)
    return True
