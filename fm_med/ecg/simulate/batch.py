"""Simulate a batch: people, their recordings, reports and follow-up."""

from dataclasses import dataclass

import numpy as np

from fm_med.ecg.recording import Recording
from fm_med.ecg.simulate.electrodes import RESOLUTION
from fm_med.ecg.simulate.randomness import Tape, generators
from fm_med.ecg.simulate.recordings import Setup, record
from fm_med.ecg.simulate.subjects import (
    HOSPITALS,
    NORMALS,
    UNIFORMS,
    Hospital,
    draw_subjects,
)
from fm_med.ecg.simulate.survival_times import (
    baseline_for,
    draw_survival,
    log_hazard,
)
from fm_med.errors import InputError


@dataclass
class SimulatedBatch:
    """Simulated recordings, one row each; rows of one subject stand together.

    Attributes:
        signal: (rows, 12, samples) float32 mV in the order of `LEADS`; NaN in a lost lead.
        sampling_rate: Hz.
        lead_mask: (rows, 12) bool, False where an electrode fell off.
        subject: (rows,) number of the person.
        repeat: (rows,) 0 for a person's first recording, 1, 2 for the later ones.
        report: Free text, English or German.
        language: "en" or "de".
        mentioned: (rows, 15) bool, the findings that the report names.
        severity: (rows, 15) in [0, 1]; a finding is present where it is above 0.
        age: (rows,) years.
        female: (rows,) bool.
        heart_rate: (rows,) mean rate, beats per minute.
        trait: (rows,) the trait that is visible in the ECG and never reported.
        time: (rows,) months of follow-up.
        event: (rows,) bool.
        log_hazard_all: (rows,) the true log-hazard is effect x this.
        log_hazard_ecg: (rows,) without age.
        log_hazard_findings: (rows,) findings alone.
        log_hazard_age: (rows,) age alone.
    """

    signal: np.ndarray
    sampling_rate: int
    lead_mask: np.ndarray
    subject: np.ndarray
    repeat: np.ndarray
    report: list[str]
    language: list[str]
    mentioned: np.ndarray
    severity: np.ndarray
    age: np.ndarray
    female: np.ndarray
    heart_rate: np.ndarray
    trait: np.ndarray
    time: np.ndarray
    event: np.ndarray
    log_hazard_all: np.ndarray
    log_hazard_ecg: np.ndarray
    log_hazard_findings: np.ndarray
    log_hazard_age: np.ndarray

    def __len__(self) -> int:
        """Return the number of recordings."""
        return len(self.subject)

    def recording(self, row: int) -> Recording:
        """Return one recording as if it had been read from a file."""
        return Recording(
            signal=self.signal[row],
            sampling_rate=float(self.sampling_rate),
            lead_mask=self.lead_mask[row],
            missing_samples=0,
            resolution=np.where(self.lead_mask[row], RESOLUTION, np.nan).astype("f4"),
        )


def simulate(
    subjects: int,
    *,
    seed: int = 0,
    first_subject: int = 0,
    sampling_rate: int = 100,
    seconds: float = 10.0,
    hospital: str | Hospital = "a",
    effect: float = 1.0,
    event_share: float = 0.10,
    recordings_per_subject: float = 1.0,
    lead_dropout: float = 0.0,
) -> SimulatedBatch:
    """Simulate people with their ECGs, reports and survival.

    A person is determined by `seed` and its number alone: simulating 1,000 people at once or in
    any pieces gives the same rows. At another sampling rate the same heart, wander and mains are
    sampled, and only the muscle noise is drawn anew.

    All recordings of a person are made at the start of follow-up: severities are equal, beats,
    noise and report differ.

    Args:
        subjects: Number of people.
        seed: Not negative.
        first_subject: Number of the first person.
        sampling_rate: 100 to 1000 Hz.
        seconds: Length of each recording, 2 to 60.
        hospital: "a", "b", or a `Hospital` of one's own.
        effect: Scale of the true log-hazard; 0 for a null cohort, in which nothing predicts.
        event_share: Expected share of people with an event, between 0 and 1.
        recordings_per_subject: Mean number, 1 to 2.5; a person has 1, 2 or 3.
        lead_dropout: Share of recordings without one to three of the leads V1-V6.

    Raises:
        InputError: A setting is outside its range.
    """
    settings = {
        "subjects": (subjects, 0, np.inf),
        "seed": (seed, 0, np.inf),
        "first_subject": (first_subject, 0, np.inf),
        "sampling_rate": (sampling_rate, 100, 1000),
        "seconds": (seconds, 2, 60),
        "event_share": (event_share, 0.001, 0.999),
        "recordings_per_subject": (recordings_per_subject, 1, 2.5),
        "lead_dropout": (lead_dropout, 0, 1),
    }
    _check_ranges(settings)
    place = _hospital(hospital)

    numbers = np.arange(first_subject, first_subject + subjects)
    tape = Tape.draw(generators((seed, n, 0) for n in numbers.tolist()), UNIFORMS, NORMALS)
    people = draw_subjects(tape, place)
    hazard = log_hazard(people)
    baseline = baseline_for(place, effect, event_share)
    time, event = draw_survival(tape, effect * hazard.everything, baseline)

    person, repeat = _repeats(tape.uniform(1)[:, 0], recordings_per_subject)
    keys = zip(numbers[person].tolist(), repeat.tolist())
    recorders = generators((seed, n, 1 + r) for n, r in keys)
    recorded = record(
        people.take(person), recorders, Setup(place, sampling_rate, seconds, lead_dropout)
    )
    return SimulatedBatch(
        **vars(recorded),
        sampling_rate=sampling_rate,
        subject=numbers[person],
        repeat=repeat,
        severity=people.severity[person],
        age=people.age[person],
        female=people.female[person],
        heart_rate=people.heart_rate[person],
        trait=people.trait[person],
        time=time[person],
        event=event[person],
        log_hazard_all=hazard.everything[person],
        log_hazard_ecg=hazard.ecg[person],
        log_hazard_findings=hazard.findings[person],
        log_hazard_age=hazard.age[person],
    )


def _check_ranges(settings: dict[str, tuple[float, float, float]]) -> None:
    for name, (value, low, high) in settings.items():
        if not low <= value <= high:
            wanted = f"at least {low}" if high == np.inf else f"between {low} and {high}"
            raise InputError(f"{name} of the simulation is {value}; it must be {wanted}")


def _hospital(hospital: str | Hospital) -> Hospital:
    if isinstance(hospital, Hospital):
        return hospital
    if hospital not in HOSPITALS:
        raise InputError(f"no simulated hospital {hospital!r}; there are {', '.join(HOSPITALS)}")
    return HOSPITALS[hospital]


def _repeats(chance: np.ndarray, mean: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the person's index and the repeat of each recording.

    Persons with more than one recording have two or three, equally often, so their share is
    (mean - 1) / 1.5.
    """
    share = (mean - 1) / 1.5
    count = 1 + (chance < share).astype(int) + (chance < share / 2)
    person = np.repeat(np.arange(len(chance)), count)
    first = np.cumsum(count) - count
    return person, np.arange(len(person)) - first[person]
