"""Where an image model looks, drawn over the images: maps side by side, each put to the test."""

from collections.abc import Mapping, Sequence

import numpy as np

from fm_med.report.figures import FULL
from fm_med.report.page import Figure, Panel
from fm_med.report.svg import drawing, to_svg

CAPTION = (
    "Each image beside maps of where the model looks (from dark for nothing to bright for the most "
    "important place). The number is the map's faithfulness: how much faster the class's "
    "probability falls when the places that the map calls important are blurred first than when "
    "places are blurred in random order, as area between the two curves. At 0 or below the map "
    "tells nothing of what the model uses."
)


def image_maps_figure(
    images: np.ndarray,
    maps: Mapping[str, np.ndarray],
    *,
    titles: Sequence[str],
    faithfulness: Mapping[str, np.ndarray],
) -> Figure:
    """Draw images and maps in rows.

    Args:
        images: (n, height, width, 3) from 0 to 1, before they were centred and scaled.
        maps: By name, such as "Attention" and "Grad-CAM": (n, height, width) from 0 to 1.
        titles: Of each image: what is shown and what the model says.
        faithfulness: By the names of the maps: (n,), from `deletion_curve`.
    """
    columns = 1 + len(maps)
    width = min(FULL, 1.7 * columns)
    height = width / columns * 1.2 * len(images)
    with drawing(width, height, nrows=len(images), ncols=columns, squeeze=False) as (figure, axes):
        for row, (image, title) in enumerate(zip(images, titles)):
            axes[row, 0].imshow(image.clip(0, 1), interpolation="nearest")
            axes[row, 0].set_title(title)
            for place, (name, values) in zip(axes[row, 1:], maps.items()):
                grey = image.clip(0, 1).mean(2)
                place.imshow(grey, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
                place.imshow(values[row], cmap="inferno", vmin=0, vmax=1, alpha=0.6)
                place.set_title(f"{name} {faithfulness[name][row]:+.2f}")
        for place in axes.flat:
            place.set_axis_off()
        means = ", ".join(f"{name} {values.mean():+.2f}" for name, values in faithfulness.items())
        alt = f"{len(images)} images with maps of importance; mean faithfulness: {means}."
        return Figure([Panel(to_svg(figure), alt)], CAPTION, wide=columns > 2)
