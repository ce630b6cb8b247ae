"""Draw every simulated finding next to a normal ECG, on ECG paper, one PNG per finding."""

import argparse
from dataclasses import replace
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from fm_med.ecg.leads import LEADS
from fm_med.ecg.simulate import FINDINGS, HOSPITALS, simulate

COLUMNS = (("I", "II", "III"), ("aVR", "aVL", "aVF"), ("V1", "V2", "V3"), ("V4", "V5", "V6"))
SECONDS = 2.5  # of each lead, as on paper; lead II runs below for the whole length


def draw_paper(axes, seconds, height):
    """Draw the grid: 40 ms and 0.1 mV, bold every five."""
    axes.set_xticks(np.arange(0, seconds + 0.01, 0.2), minor=False)
    axes.set_xticks(np.arange(0, seconds + 0.01, 0.04), minor=True)
    axes.set_yticks(np.arange(-height, 1.51, 0.5), minor=False)
    axes.set_yticks(np.arange(-height, 1.51, 0.1), minor=True)
    axes.grid(which="minor", color="#f7d9d9", linewidth=0.3)
    axes.grid(which="major", color="#efa9a9", linewidth=0.5)
    axes.tick_params(which="both", length=0, labelbottom=False, labelleft=False)
    axes.set_xlim(0, seconds)
    axes.set_ylim(-height, 1.5)


def draw_ecg(axes, signal, rate, title):
    """Draw (12, samples) as 3 x 4 leads and a rhythm strip."""
    height = 9.0
    draw_paper(axes, 4 * SECONDS, height)
    for column, leads in enumerate(COLUMNS):
        part = slice(int(column * SECONDS * rate), int((column + 1) * SECONDS * rate))
        time = np.arange(part.start, part.stop) / rate
        for row, lead in enumerate(leads):
            level = -2.2 * row - 0.2
            axes.plot(time, signal[LEADS.index(lead), part] + level, color="black", linewidth=0.6)
            axes.text(time[0] + 0.05, level + 0.9, lead, fontsize=7)
    time = np.arange(signal.shape[1]) / rate
    axes.plot(time, signal[1] - 7.6, color="black", linewidth=0.6)
    axes.set_title(title, fontsize=9)


def one_ecg(finding, seed, rate, noise):
    """Return one recording of somebody who has exactly this finding (None: no finding)."""
    prevalence = {name: float(name == finding) for name in FINDINGS}
    hospital = replace(HOSPITALS["a"], prevalence=prevalence, german=0.0, noise=noise)
    return simulate(1, seed=seed, sampling_rate=rate, hospital=hospital)


def main():
    """Write one PNG per finding."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="folder of the PNG files")
    parser.add_argument("--sampling_rate", type=int, default=500, help="Hz")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--noise", type=float, default=1.0, help="0 for clean signals")
    parser.add_argument("--findings", nargs="*", default=list(FINDINGS))
    settings = parser.parse_args()
    settings.output.mkdir(parents=True, exist_ok=True)
    for finding in settings.findings:
        figure, panels = plt.subplots(1, 2, figsize=(16, 7), layout="constrained")
        for axes, name in zip(panels, (None, finding)):
            batch = one_ecg(name, settings.seed, settings.sampling_rate, settings.noise)
            severity = batch.severity.max()
            title = f"{name or 'normal'} {severity:.2f}: {batch.report[0]}"
            draw_ecg(axes, batch.signal[0], settings.sampling_rate, title)
        figure.savefig(settings.output / f"{finding}.png", dpi=75)
        plt.close(figure)
        print(settings.output / f"{finding}.png")


if __name__ == "__main__":
    main()
