"""The twelve standard leads, their order, and the names that devices give them."""

import re
from functools import cache

LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")

# "DI" to "DIII" is the Latin habit (CODE, Brazil and Spain) for the limb leads.
_CANONICAL = {lead.lower(): lead for lead in LEADS} | {"di": "I", "dii": "II", "diii": "III"}
_PREFIX = re.compile(r"^(?:ecg|ekg)?[\s_:.-]*(?:lead)?[\s_:.-]*(?=\S)")


@cache
def canonical_lead(name: str) -> str | None:
    """Return the standard name of a lead, or None when it is none of the twelve.

    Upper and lower case, a leading "ECG" or "lead", and the "D" of limb leads are accepted
    (``avr``, ``ECG lead II``, ``DIII``). Leads that only resemble a standard one are not: MLII and
    MCL1 (modified positions), V without a number (position unknown), -aVR, Frank's VX.

    Args:
        name: The name in the file.

    Returns:
        An element of `LEADS`, or None.
    """
    cleaned = name.strip().lower()
    if cleaned in _CANONICAL:
        return _CANONICAL[cleaned]
    # The minus of "-aVR" is no separator: only a name that really has a prefix loses one.
    if not cleaned.startswith(("ecg", "ekg", "lead")):
        return None
    return _CANONICAL.get(_PREFIX.sub("", cleaned, count=1))
