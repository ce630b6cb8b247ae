import json

import numpy as np
import pytest

from fm_med.errors import InputError
from fm_med.text.prompts import available_prompts, load_prompts, zero_shot_directions
from fm_med.text.statements import scp_sentences

SUPERCLASSES = ["NORM", "MI", "STTC", "CD", "HYP"]


@pytest.mark.parametrize("name", available_prompts())
def test_every_prompt_file_of_the_package_is_valid(name):
    prompts = load_prompts(name)
    for label, sides in prompts.items():
        assert not set(sides["present"]) & set(sides["absent"]), label
        assert len(set(sides["present"])) == len(sides["present"]), label


def test_superclasses_in_both_forms():
    assert list(load_prompts("superclass")) == SUPERCLASSES
    statements = load_prompts("superclass_statements")
    assert list(statements) == SUPERCLASSES
    known = set(scp_sentences().values())
    for sides in statements.values():
        assert {*sides["present"], *sides["absent"]} <= known


def test_a_file_by_path(tmp_path):
    prompts = {"AF": {"present": ["vorhofflimmern"], "absent": ["sinusrhythmus", "normal"]}}
    (tmp_path / "own.json").write_text(json.dumps(prompts))
    assert load_prompts(tmp_path / "own.json") == prompts


def test_unknown_name_lists_what_there_is():
    with pytest.raises(InputError, match=r"'superclas'.*superclass, superclass_statements"):
        load_prompts("superclas")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("\xff\xfe", "is not JSON"),
        ("[]", "at least one label"),
        ("{}", "at least one label"),
        ('{"AF": ["vorhofflimmern"]}', "label 'AF' needs 'present' and 'absent'"),
        ('{"AF": {"present": ["a"]}}', "label 'AF' needs 'present' and 'absent'"),
        ('{"AF": {"present": [], "absent": ["b"]}}', "'present' of 'AF' must be a list"),
        ('{"AF": {"present": ["a"], "absent": "b"}}', "'absent' of 'AF' must be a list"),
        ('{"AF": {"present": ["a"], "absent": [" "]}}', "'absent' of 'AF' must be a list"),
        ('{"AF": {"present": [1], "absent": ["b"]}}', "'present' of 'AF' must be a list"),
    ],
)
def test_malformed_files_are_refused(tmp_path, content, message):
    path = tmp_path / "own.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(InputError, match=message):
        load_prompts(path)


def test_directions_are_means_per_label_and_side():
    prompts = {
        "A": {"present": ["a", "bbb"], "absent": ["cc"]},
        "B": {"present": ["dddd"], "absent": ["e", "ff", "ggg"]},
    }
    present, absent = zero_shot_directions(
        lambda texts: np.array([[len(text), 1.0] for text in texts], dtype=np.float32), prompts
    )
    np.testing.assert_array_equal(present, [[2, 1], [4, 1]])
    np.testing.assert_array_equal(absent, [[2, 1], [2, 1]])
    assert present.dtype == absent.dtype == np.float32
