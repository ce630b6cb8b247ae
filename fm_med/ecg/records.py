"""Read ECG recordings of any origin to twelve leads in millivolt."""

from fm_med.ecg.recording import RecordError, Recording

__all__ = ["RecordError", "Recording"]
