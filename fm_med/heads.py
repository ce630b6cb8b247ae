"""Small networks on top of an encoder's pooled output."""

from torch import Tensor, nn


class ProjectionHead(nn.Module):
    """Two layers from one tower's features to the shared space; normalising is left to the caller.

    Args:
        inputs: Width of the features.
        outputs: Width of the shared space.
        hidden: Width of the layer between.

    Shape:
        - features: (..., inputs) -> (..., outputs).
    """

    def __init__(self, inputs: int, outputs: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(inputs)
        self.fc1 = nn.Linear(inputs, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, outputs)

    def forward(self, features: Tensor) -> Tensor:
        """Project the features."""
        return self.fc2(self.act(self.fc1(self.norm(features))))
