import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from fm_med.text.normalise import normalise, text_digest, text_hash


def test_white_space_and_unicode_forms_do_not_matter_but_letter_case_does():
    a = "  überdrehter\tLinkstyp \n\n normal\u00a0 "
    b = "u\u0308berdrehter Linkstyp normal"
    assert normalise(a) == normalise(b) == "überdrehter Linkstyp normal"
    assert text_hash(a) == text_hash(b) != text_hash(b.lower())


@given(st.text())
def test_normalising_twice_changes_nothing(text):
    once = normalise(text)
    assert normalise(once) == once
    assert normalise(unicodedata.normalize("NFD", text)) == once
    assert text_digest(text) == text_digest(once) and len(text_digest(text)) == 16


@given(st.text())
def test_hash_fits_int64(text):
    assert -(2**63) <= text_hash(text) < 2**63


def test_hash_is_the_same_in_every_version():
    assert text_hash("normal ecg") == text_hash(" normal  ecg")
    assert text_digest("normal ecg").hex() == "d33f562e5c79650a62d8c7f83366b4ad"
