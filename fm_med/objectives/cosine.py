"""The seed paper's alignment: positives only, kept to show what it does."""

from torch import Tensor


def cosine_loss(signal_embedding: Tensor, text_embedding: Tensor) -> Tensor:
    r"""Mean of :math:`1 - x_i^\top y_i` over the batch.

    It has no negatives, so one vector for every recording and every report minimises it: the
    embedding collapses (pairwise cosine 1.000, a probe on it is below a random encoder's). Use
    `contrastive_loss` or `siglip_loss`; this one is for comparison with the publication.

    Args:
        signal_embedding: (batch, dim) L2-normalised.
        text_embedding: (batch, dim) L2-normalised.

    References:
        Chen et al., arXiv 2403.10581 (CosineEmbeddingLoss with target 1).
    """
    return 1 - (signal_embedding * text_embedding).sum(-1).mean()
