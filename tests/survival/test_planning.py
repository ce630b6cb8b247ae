"""Follow-up in numbers, and what the number of events allows to say."""

import json
from pathlib import Path

import numpy as np
import pytest

from fm_med.errors import InputError
from fm_med.survival import c_index_half_width, events_for_half_width, follow_up_summary

REFERENCE = json.loads((Path(__file__).parent / "reference_curves.json").read_text())


def test_the_median_follow_up_equals_r():
    time, event = (np.array(REFERENCE[name], float) for name in ("time", "event"))
    summary = follow_up_summary(time, event)
    found = (summary.median.value, summary.median.low, summary.median.high)
    assert found == tuple(REFERENCE["reverse.median"])
    assert (summary.persons, summary.events) == (240, int(event.sum()))
    assert summary.person_time == time.sum()
    assert summary.events_per_time == event.sum() / time.sum()
    assert summary.longest == time.max()


def test_the_median_is_not_defined_where_fewer_than_half_are_censored():
    summary = follow_up_summary([1.0, 2.0, 3.0], [True, True, True])
    assert np.isnan(summary.median.value)


def test_the_precision_that_events_allow():
    widths = [round(c_index_half_width(events), 3) for events in (20, 100, 2000)]
    assert widths == [0.114, 0.051, 0.011]
    assert c_index_half_width(events_for_half_width(0.05)) <= 0.05
    assert c_index_half_width(events_for_half_width(0.05) - 1) > 0.05


def test_bad_input_is_refused():
    with pytest.raises(InputError, match="needs events, not 0"):
        c_index_half_width(0)
    with pytest.raises(InputError, match="between 0 and 0.5, not 0.7"):
        events_for_half_width(0.7)
    with pytest.raises(InputError, match="row 0 has nan"):
        follow_up_summary([np.nan], [True])
