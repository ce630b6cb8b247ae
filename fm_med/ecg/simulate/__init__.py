"""Simulated 12-lead ECGs with findings, reports and survival times whose truth is known.

A dipole that moves with each beat is seen through Dower's matrix; noise is added at the electrodes;
a physician of two languages describes it; a Weibull hazard decides who has an event. numpy only.
"""

from fm_med.ecg.simulate.batch import SimulatedBatch, simulate
from fm_med.ecg.simulate.subjects import FINDINGS, HOSPITALS, Hospital

__all__ = ["FINDINGS", "HOSPITALS", "Hospital", "SimulatedBatch", "simulate"]
