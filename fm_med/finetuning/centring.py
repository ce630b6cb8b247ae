"""After the loop: zero, which stands for an absent part of a fusion, becomes the part's mean."""

import numpy as np
import torch

from fm_med.finetuning.training import Finetuning
from fm_med.fusion.late_fusion import LateFusionModel
from fm_med.fusion.naming import PARTS


@torch.no_grad()
def centre_parts(tuning: Finetuning, features: np.ndarray, held_out: np.ndarray) -> None:
    """Centre the parts of a fused encoder on its training rows; the head predicts as before.

    A head that is fitted anew on rows that have both parts learns nothing of absent ones. With
    centred features it predicts for them as for the mean: on a simulated number of which either
    part tells half, R squared without one part was .04, and is that of the other part alone.

    Args:
        tuning: Trained; its encoder and head are changed, if it is a fusion.
        features: (training rows, pooled_size), centred in place.
        held_out: Of other rows, centred by the same means.
    """
    encoder, head = tuning.predictor.encoder, tuning.predictor.head
    if not isinstance(encoder, LateFusionModel):
        return
    for part in PARTS:
        columns, presence = encoder.place_of(part)
        shown = features[:, presence] > 0
        mean = features[shown, columns].mean(0)
        for rows in (features, held_out):
            rows[:, columns] -= mean * (rows[:, presence] > 0)[:, None]
        move = torch.from_numpy(mean).to(head.features.mean.device)
        scale = getattr(encoder, f"{part}_scale")
        scale.mean += move * scale.scale
        # The same prediction of the moved features: of rows with the part by the head's own mean,
        # of rows without it, whose zeros have not moved, by the weight of its presence.
        head.features.mean[columns] -= move
        shift = head.output.weight[:, columns] @ (move / head.features.scale[columns])
        centre, spread = head.features.mean[presence], head.features.scale[presence]
        head.output.weight[:, presence] += shift * spread
        head.output.bias.sub_(shift * (1 - centre))
