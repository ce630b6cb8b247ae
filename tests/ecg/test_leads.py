import pytest

from fm_med.ecg.leads import LEADS, canonical_lead


@pytest.mark.parametrize("lead", LEADS)
@pytest.mark.parametrize("spell", [str, str.lower, str.upper, "ECG {}".format, " {} ".format])
def test_standard_leads_are_found_however_they_are_spelt(lead, spell):
    assert canonical_lead(spell(lead)) == lead


@pytest.mark.parametrize(
    "name, lead",
    [("ECG lead II", "II"), ("DIII", "III"), ("dI", "I"), ("lead_avr", "aVR"), ("EKG-V2", "V2")],
)
def test_names_of_devices(name, lead):
    assert canonical_lead(name) == lead


@pytest.mark.parametrize(
    "name",
    # what only resembles a standard lead: modified, of unknown position, inverted, Frank, none
    ["MLII", "MCL1", "V", "-aVR", "VX", "V7", "V3R", "ECG 1", "ECG", "lead", "", "RESP", "Pleth"],
)
def test_other_signals_are_no_lead(name):
    assert canonical_lead(name) is None
