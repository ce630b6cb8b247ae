"""Small cohorts full of ties, and the censoring distribution as textbooks write it."""

import numpy as np
from hypothesis import strategies as st


class NaiveCensoring:
    """Kaplan-Meier of censoring as it is written in textbooks; events leave before censored."""

    def __init__(self, time, event, *, before=True):
        self.time, self.event, self.before = time, event, before

    def one(self, t):
        value = 1.0
        for u in np.unique(self.time[~self.event]):
            if u < t or (u == t and not self.before):
                censored = ((self.time == u) & ~self.event).sum()
                value *= 1 - censored / (censored + (self.time > u).sum())
        return value

    def at(self, times):
        return np.array([self.one(t) for t in times])


def cohort(rows, *, distinct_times=None, distinct_risks=None, events=0.5, seed=0):
    generator = np.random.default_rng(seed)
    risk = generator.normal(size=rows)
    time = generator.exponential(np.exp(-risk))
    if distinct_times:
        time = np.ceil(distinct_times * (1 - np.exp(-time)))
    if distinct_risks:
        risk = np.round(risk * distinct_risks / 4)
    event = generator.random(rows) < events
    return time, event, risk


@st.composite
def cohorts(draw, max_rows=40):
    """Small cohorts full of ties, with at least one comparable pair."""
    rows = draw(st.integers(2, max_rows))

    def column(low, high):
        return np.array(draw(st.lists(st.integers(low, high), min_size=rows, max_size=rows)))

    time, risk = column(0, draw(st.sampled_from([2, 6, 50]))), column(-4, 4) / 2
    event = column(0, 1).astype(bool)
    event[0], time[0], time[-1] = True, 0, time.max() + 1
    return time.astype(float), event, risk
