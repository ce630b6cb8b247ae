"""The words of simulated reports: how each finding is called in English and in German."""

ENGLISH: dict[str, tuple[str, ...]] = {
    "SBRAD": ("sinus bradycardia", "bradycardic sinus rhythm"),
    "STACH": ("sinus tachycardia", "tachycardic sinus rhythm"),
    "AFIB": ("atrial fibrillation", "absolute arrhythmia due to atrial fibrillation"),
    "1AVB": ("first degree AV block", "prolonged PR interval"),
    "LBBB": ("left bundle branch block", "LBBB"),
    "RBBB": ("right bundle branch block", "RBBB"),
    "LVH": ("left ventricular hypertrophy", "high voltage suggesting LVH"),
    "AMI": ("anterior myocardial infarction", "loss of anterior R waves"),
    "IMI": ("inferior myocardial infarction", "pathological Q waves in II, III, aVF"),
    "STD": ("ST depression", "descending ST segments in lateral leads"),
    "TINV": ("T wave inversion", "negative T waves"),
    "LNGQT": ("prolonged QT interval", "long QTc"),
    "LVOLT": ("low QRS voltage", "low voltage in limb leads"),
    "PVC": ("ventricular extrasystoles", "premature ventricular complexes"),
    "LAD": ("left axis deviation", "left anterior hemiblock pattern"),
}
GERMAN: dict[str, tuple[str, ...]] = {
    "SBRAD": ("Sinusbradykardie", "bradykarder Sinusrhythmus"),
    "STACH": ("Sinustachykardie", "tachykarder Sinusrhythmus"),
    "AFIB": ("Vorhofflimmern", "absolute Arrhythmie bei Vorhofflimmern"),
    "1AVB": ("AV-Block I°", "verlängerte PQ-Zeit"),
    "LBBB": ("Linksschenkelblock", "LSB"),
    "RBBB": ("Rechtsschenkelblock", "RSB"),
    "LVH": ("linksventrikuläre Hypertrophie", "Linkshypertrophie-Zeichen"),
    "AMI": ("Vorderwandinfarkt", "R-Verlust über der Vorderwand"),
    "IMI": ("Hinterwandinfarkt", "Q-Zacken in II, III, aVF"),
    "STD": ("ST-Senkung", "deszendierende ST-Strecken lateral"),
    "TINV": ("T-Negativierung", "negative T-Wellen"),
    "LNGQT": ("verlängerte QT-Zeit", "QT-Verlängerung"),
    "LVOLT": ("Niedervoltage", "periphere Niedervoltage"),
    "PVC": ("ventrikuläre Extrasystolen", "VES"),
    "LAD": ("Linkslagetyp", "überdrehter Linkstyp"),
}
TERMS = (ENGLISH, GERMAN)

# A hedge stands before the term, so that it needs no German inflection.
HEDGES = (("possible", "probable"), ("wahrscheinlich", "möglicherweise"))

NORMAL = (
    (
        "Normal ECG.",
        "Sinus rhythm. Normal ECG.",
        "Sinus rhythm, no pathological findings.",
        "ECG within normal limits.",
    ),
    (
        "Normales EKG.",
        "Sinusrhythmus. Normales EKG.",
        "Sinusrhythmus, unauffälliges EKG.",
        "Normalbefund.",
    ),
)
