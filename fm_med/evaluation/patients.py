"""Single patients on ECG paper: attention, occlusion and integrated gradients of their score."""

import numpy as np
from torch import Tensor

from fm_med.ecg.dual_attention import DualAttentionModel
from fm_med.ecg.processor import EcgProcessor
from fm_med.evaluation.model import FittedModel
from fm_med.examples import Examples
from fm_med.explain import integrated_gradients, lead_and_time_attention, occlusion
from fm_med.report.attribution_map import attribution_panel
from fm_med.report.ecg_paper import ExampleECG, ecg_panel, lead_map_panel
from fm_med.report.page import Figure
from fm_med.tasks import FollowUpTask

WINDOW_SECONDS = 0.2
STEPS = 24  # of the integral


def patient_figures(model: FittedModel, test: Examples, score: np.ndarray) -> list[Figure]:
    """Draw the patients of highest, middle and lowest score; nothing for other inputs than ECGs.

    Args:
        model: Its output, or what ranks by it, must be one number per row.
        test: The rows.
        score: (rows,) what the model gives them.
    """
    if not isinstance(model.processor, EcgProcessor) or score.ndim != 1:
        return []
    order = np.argsort(score, kind="stable")
    chosen = {"highest": order[-1], "middle": order[len(order) // 2], "lowest": order[0]}
    figures = []
    for name, row in chosen.items():
        figures += _patient(model, test, int(row), f"Patient with the {name} predicted risk")
    return figures


def _patient(model: FittedModel, test: Examples, row: int, title: str) -> list[Figure]:
    """Return the recording with attention, and the two maps of its score."""
    inputs = model.inputs(test, np.array([row]))
    rate = model.processor.sampling_rate
    signal, mask = inputs["signal"], inputs["lead_mask"]
    encoder_inputs = {"signal": signal, "lead_mask": mask}
    maps: dict[str, Tensor] = {}
    if isinstance(model.encoder, DualAttentionModel):
        maps = lead_and_time_attention(model.encoder, encoder_inputs, sampling_rate=rate)
    example = ExampleECG(
        signal=signal[0].cpu().numpy(),
        sampling_rate=rate,
        title=title,
        lead_mask=mask[0].cpu().numpy(),
        time_attention=maps["time"][0].cpu().numpy() if maps else None,
        lead_attention=maps["lead"][0].cpu().numpy() if maps else None,
    )
    panels = [ecg_panel(example, rows=True)]
    caption = f"{title}."
    if maps:
        panels.append(lead_map_panel(example))
        caption += " Square: how much each lead (row) reads from each lead (column)."
    seconds = signal.shape[-1] / rate
    dropped, summed = _attributions(model, inputs, rate)
    present = example.present
    attributed = Figure(
        [
            attribution_panel(dropped, seconds=seconds, title="Occlusion", present=present),
            attribution_panel(
                summed, seconds=seconds, title="Integrated gradients", present=present
            ),
        ],
        f"{title}: which stretches of which lead moved the log-hazard, by {WINDOW_SECONDS:g} s.",
        wide=True,
    )
    return [Figure(panels, caption, wide=True), attributed]


def _attributions(
    model: FittedModel, inputs: dict[str, Tensor], rate: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return (12, windows) occlusion and integrated gradients summed over the same windows."""
    name = model.task.output_name

    def score(batch: dict[str, Tensor]) -> Tensor:
        # Not through the predictor, which keeps no gradients of the input of a frozen encoder.
        encoded = model.encoder(signal=batch["signal"], lead_mask=batch["lead_mask"])
        output = model.head(encoded.pooler_output, batch.get("clinical"))[name]
        return model.task.ranking(output) if isinstance(model.task, FollowUpTask) else output

    dropped = occlusion(score, inputs, window_seconds=WINDOW_SECONDS, sampling_rate=rate)["drop"][0]
    gradients = integrated_gradients(score, inputs, steps=STEPS)["attribution"][0]
    width = round(WINDOW_SECONDS * rate)
    starts = np.arange(0, gradients.shape[-1], width)
    summed = np.add.reduceat(gradients.cpu().numpy(), starts, axis=-1)
    return dropped.cpu().numpy(), summed
