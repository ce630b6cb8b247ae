"""A model as ONNX, with all that must be done around it told in words and numbers.

The graph is encoder and head. What the processor does before it and what turns its output into
risks after it are no part of it: they are written beside it as JSON, and into its metadata.

All encoders of this package export, alone and fused; of any number are the rows, the visits of
`lstm_attention`, `malnet_paper`, `spline_basis` and `tabm`, and the tokens of `hub_transformer`.
Of a foreign `hub_backbone` those export whose layers ONNX has; others are refused in one line that
names the layer. Attention maps are no output.
"""

from fm_med.onnx_export.description import describe
from fm_med.onnx_export.exporting import TOLERANCE, Exported, export
from fm_med.onnx_export.inputs import example_inputs

__all__ = ["TOLERANCE", "Exported", "describe", "example_inputs", "export"]
