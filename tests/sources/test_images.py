import csv

import numpy as np
import pytest
from PIL import Image

from fm_med.cli import main
from fm_med.cohort import check_cohort, open_cohort
from fm_med.errors import InputError
from fm_med.image.storage import decode
from fm_med.sources.images import ImageColumns, make_images


def picture(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 255, (6, 5, 3)).astype(np.uint8)
    Image.fromarray(values).save(path)
    return values


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "cells"
    lines = ["file,smear,kind,big"]
    for number in range(90):
        kind = "blast" if number % 3 else "normal"
        picture(root / kind / f"{number}.png", number)
        lines.append(f"{kind}/{number}.png,s{number // 2},{kind},{number % 2}")
    (tmp_path / "manifest.csv").write_text("\n".join(lines))
    return root


def columns(**changes):
    return ImageColumns(**{"path": "file", "group": "smear", "class_column": "kind"} | changes)


def test_a_table_gives_groups_classes_and_labels(folder, tmp_path):
    chosen = columns(labels=("big",))
    made = make_images(folder, tmp_path / "c", table=tmp_path / "manifest.csv", columns=chosen)
    cohort = open_cohort(made)
    assert check_cohort(made) == []
    assert cohort.card.classes == {"kind": ["blast", "normal"]}
    seen = 0
    for split, table in cohort.splits.items():
        rows = cohort.rows(split, np.arange(table.num_rows))
        for pixels, row in zip(decode(rows), rows.drop_columns(["image"]).to_pylist()):
            number = int(row["record_id"].split("/")[1][:-4])
            expected = np.random.default_rng(number).integers(0, 255, (6, 5, 3))
            np.testing.assert_array_equal(pixels.values, expected)
            assert row["subject_id"] == f"s{number // 2}" and row["big"] == bool(number % 2)
            assert row["kind"] == ("blast" if number % 3 else "normal")
            seen += 1
    assert seen == 90


def test_folders_are_classes(folder, tmp_path):
    cohort = open_cohort(make_images(folder, tmp_path / "c", without_groups=True))
    assert cohort.card.classes == {"class": ["blast", "normal"]}
    with pytest.raises(InputError, match="no group column"):
        make_images(folder, tmp_path / "d")
    assert not (tmp_path / "d").exists()
    (folder / "empty").mkdir()
    with pytest.raises(InputError, match="class folder .*empty holds no image"):
        make_images(folder, tmp_path / "d", without_groups=True)


def test_files_that_are_no_images_are_listed(folder, tmp_path):
    (folder / "normal" / "x.png").write_text("no")
    made = make_images(folder, tmp_path / "c", without_groups=True)
    with (made / "skipped.csv").open() as file:
        skipped = list(csv.reader(file))[1:]
    assert len(skipped) == 1 and skipped[0][0] == "normal/x.png"
    assert "not a readable image" in skipped[0][1]


def test_where_no_file_is_an_image_nothing_is_written(folder, tmp_path, capsys):
    for file in folder.rglob("*.png"):
        file.write_text("no")
    assert main(f"cohort images {folder} {tmp_path}/c --without_groups".split()) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: none of 90 recordings could be used, first ")
    assert "is not a readable image" in error and error.count("\n") == 1
    assert not (tmp_path / "c").exists()


def test_a_group_in_two_splits_leaks(folder, tmp_path):
    text = (tmp_path / "manifest.csv").read_text().splitlines()
    splits = ["split", *["train", "test"] * 45]
    lines = [f"{a},{b}" for a, b in zip(text, splits)]
    (tmp_path / "manifest.csv").write_text("\n".join(lines))
    with pytest.raises(InputError, match="45 subject.* in more than one split: s0 .train, test."):
        make_images(
            folder,
            tmp_path / "c",
            table=tmp_path / "manifest.csv",
            columns=columns(split="split"),
        )
    assert not (tmp_path / "c").exists()


def test_equal_images_in_two_splits_are_refused(folder, tmp_path):
    for number in range(90):
        picture(folder / ("blast" if number % 3 else "normal") / f"{number}.png", 7)
    with pytest.raises(InputError, match="more than one split"):
        make_images(folder, tmp_path / "c", without_groups=True)


def test_the_command(folder, tmp_path, capsys):
    words = f"cohort images {folder} {tmp_path}/c --table {tmp_path}/manifest.csv --path file"
    assert main([*words.split(), "--class_column", "kind"]) == 2
    assert "no group column (patient, smear or slide)" in capsys.readouterr().err
    assert main([*words.split(), "--class_column", "kind", "--group", "smear"]) == 0
    assert "90" not in capsys.readouterr().err
    assert main(f"cohort images {folder} {tmp_path}/d --path file".split()) == 2
    assert capsys.readouterr().err == "error: --table and --path belong together\n"
