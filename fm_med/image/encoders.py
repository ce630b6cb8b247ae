"""All image encoders by name."""

from transformers import PreTrainedModel

from fm_med.image.hub_backbone import HubBackboneModel
from fm_med.image.spatial_attention import SpatialAttentionModel

ENCODERS: dict[str, type[PreTrainedModel]] = {
    "spatial_attention": SpatialAttentionModel,
    "hub_backbone": HubBackboneModel,
}
