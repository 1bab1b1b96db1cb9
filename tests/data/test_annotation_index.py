import json
import logging
import os
import pickle
import shutil
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import xxhash
from helpers import TINY_IMAGES
from hypothesis import given
from hypothesis import strategies as st

from roiseg.common.errors import UserError
from roiseg.data import annotation_index
from roiseg.data.annotation_loading import load_annotations
from roiseg.data.annotations import Annotations
from roiseg.data.coco_reader import CocoReader


@pytest.fixture
def source(coco_set, tmp_path):
    """A json file of one's own, to be changed; without crowds, of which every reading warns."""
    path = tmp_path / "instances.json"
    path.write_text(coco_set.json.read_text().replace('"iscrowd": 1', '"iscrowd": 0'))
    return path


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "index"


@pytest.fixture
def parses(monkeypatch):
    """Files parsed so far."""
    found, parse = [], CocoReader.__call__

    def spy(reader, path, *options):
        found.append(path)
        return parse(reader, path, *options)

    monkeypatch.setattr(CocoReader, "__call__", spy)
    return found


def only_file(folder):
    (file,) = folder.iterdir()
    return file


def check_equal(found, wanted):
    for field in fields(Annotations):
        a, b = getattr(found, field.name), getattr(wanted, field.name)
        if isinstance(b, np.ndarray):
            assert a.dtype == b.dtype, field.name
            np.testing.assert_array_equal(a, b, strict=True)
        else:
            assert a == b


def test_what_is_opened_is_what_was_parsed(source, folder, tmp_path, parses):
    wanted = load_annotations(source)
    assert list(tmp_path.iterdir()) == [source]  # no index without a folder for it
    for _ in range(3):
        found = load_annotations(source, index_dir=folder)
        check_equal(found, wanted)
    assert len(parses) == 2  # once without an index, once to make it
    for image in range(len(TINY_IMAGES)):
        for n in range(len(wanted.instances(image))):
            assert found.outlines(image).rle(n) == wanted.outlines(image).rle(n)
    with pytest.raises(ValueError, match="read-only"):
        found.boxes[0] = 0


def test_each_category_and_each_file_has_an_index_of_its_own(source, folder, tmp_path, parses):
    (tmp_path / "other").mkdir()
    other = shutil.copy(source, tmp_path / "other" / "instances.json")
    for _ in range(2):
        assert len(load_annotations(source, 1, folder).ids) == 12
        assert len(load_annotations(source, 18, folder).ids) == 1
        assert len(load_annotations(other, 1, folder).ids) == 12
    assert len(parses) == len(list(folder.iterdir())) == 3


def test_a_file_keeps_its_index_whatever_its_time_and_name(source, folder, tmp_path, monkeypatch, parses):
    for number in range(3):
        os.utime(source, ns=(0, number))
        load_annotations(source, index_dir=folder)
    monkeypatch.chdir(tmp_path)
    found = load_annotations("instances.json", index_dir="index")
    assert len(parses) == 1
    assert str(found.path) == "instances.json"


def drop_last(source):
    content = json.loads(source.read_text())
    source.write_text(json.dumps(content | {"annotations": content["annotations"][:-1]}))


def test_a_changed_file_is_parsed_anew_silently(source, folder, caplog):
    """Even where the new file has the size and time of the old one, as copies and archives give it."""
    load_annotations(source, index_dir=folder)
    before = source.stat()
    drop_last(source)
    source.write_text(source.read_text().ljust(before.st_size))
    os.utime(source, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (source.stat().st_size, source.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    check_equal(load_annotations(source, index_dir=folder), load_annotations(source))
    assert not caplog.records
    only_file(folder)


HOSTILE = {
    "arrays that are a list": {"arrays": []},
    "no arrays": {"arrays": {}},
    "an array too many": {"arrays": {"more": ["<i8", [1]]}},
    "a type numpy does not know": {"arrays": {"ids": ["person", [1]]}},
    "objects": {"arrays": {"ids": ["|O", [1]]}},
    "a shape of words": {"arrays": {"ids": ["<i8", ["many"]]}},
    "a shape beyond the file": {"arrays": {"ids": ["<i8", [1 << 40]]}},
    "arrays that end before the file": {"arrays": {"points": ["<f4", [1, 2]]}},
    "another shape of the same size": {"arrays": {"sizes": ["<i4", [2 * len(TINY_IMAGES)]]}},
    "another type of the same size": {"arrays": {"image_ids": ["<f8", [len(TINY_IMAGES)]]}},
    "deep nesting": "[" * 100_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_header_that_disagrees_with_its_file_is_not_used(source, folder, parses, name):
    """Its checksum is right: it was written so."""
    wanted = load_annotations(source)
    load_annotations(source, index_dir=folder)
    file, change = only_file(folder), HOSTILE[name]
    content, mark = file.read_bytes()[:-8], len(annotation_index._MARK)
    end = mark + 8 + int.from_bytes(content[mark : mark + 8], "little")
    header = json.loads(content[mark + 8 : end])
    if isinstance(change, dict):
        arrays = change["arrays"]
        header["arrays"] = {**header["arrays"], **arrays} if isinstance(arrays, dict) and arrays else arrays
        change = json.dumps(header)
    written = content[:mark] + len(change).to_bytes(8, "little") + change.encode() + content[end:]
    file.write_bytes(written + xxhash.xxh3_64_digest(written))
    check_equal(load_annotations(source, index_dir=folder), wanted)
    assert len(parses) == 3


def test_an_index_of_another_format_is_replaced_silently(source, folder, caplog, monkeypatch, parses):
    with monkeypatch.context() as old:
        old.setattr(annotation_index, "_MARK", annotation_index._NAME + b"0000")
        load_annotations(source, index_dir=folder)
    for _ in range(2):
        load_annotations(source, index_dir=folder)
    assert len(parses) == 2
    assert not caplog.records


def flipped(content, position, bit):
    return content[:position] + bytes([content[position] ^ 1 << bit]) + content[position + 1 :]


@pytest.fixture(scope="module")
def sound(coco_set, tmp_path_factory):
    """(json, index folder, the annotations, the index's bytes)."""
    folder = tmp_path_factory.mktemp("sound")
    load_annotations(coco_set.json, index_dir=folder)
    return coco_set.json, folder, load_annotations(coco_set.json), only_file(folder).read_bytes()


@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 8))
def test_no_flipped_bit_and_no_cut_off_end_goes_unnoticed(sound, place, bit):
    path, folder, wanted, content = sound
    position = int(place * len(content))
    only_file(folder).write_bytes(content[:position] if bit == 8 else flipped(content, position, bit))
    check_equal(load_annotations(path, index_dir=folder), wanted)
    assert only_file(folder).read_bytes() == content


@pytest.mark.parametrize("spoil", [lambda c: flipped(c, len(c) - 100, 0), lambda c: b"", lambda c: c + b"x"])
def test_a_damaged_index_is_made_again_with_one_warning(source, folder, caplog, parses, spoil):
    load_annotations(source, index_dir=folder)
    file = only_file(folder)
    file.write_bytes(spoil(file.read_bytes()))
    for _ in range(2):
        load_annotations(source, index_dir=folder)
    assert len(parses) == 2
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert f"{file} is damaged" in record.message


def test_a_file_of_the_users_in_the_place_of_the_index_stays(source, folder, caplog):
    load_annotations(source, index_dir=folder)
    only_file(folder).write_text("my notes about the index")
    with caplog.at_level(logging.INFO):
        load_annotations(source, index_dir=folder)
    assert only_file(folder).read_text() == "my notes about the index"
    assert "did not write it" in caplog.text


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_folder_that_cannot_be_written_is_no_error(source, tmp_path, caplog, place):
    (tmp_path / "file").write_text("")
    caplog.set_level(logging.INFO)
    for _ in range(2):
        check_equal(load_annotations(source, index_dir=tmp_path / place), load_annotations(source))
    assert "no annotation index" in caplog.text
    assert all(record.levelname == "INFO" for record in caplog.records)


def test_an_open_index_outlives_its_replacement(source, folder):
    wanted, found = load_annotations(source), load_annotations(source, index_dir=folder)
    drop_last(source)
    load_annotations(source, index_dir=folder)
    check_equal(found, wanted)


def test_another_process_is_sent_the_file_not_a_copy(source, folder):
    annotations = load_annotations(source, index_dir=folder)
    sent = pickle.dumps(annotations)
    assert len(sent) < 1000 < len(pickle.dumps(load_annotations(source)))
    check_equal(pickle.loads(sent), annotations)
    arrays = [getattr(pickle.loads(sent), field.name) for field in fields(Annotations)]
    assert not any(array.flags.owndata for array in arrays if isinstance(array, np.ndarray))


def test_a_process_never_gets_another_index_than_the_one_it_was_sent(source, folder):
    sent = pickle.dumps(load_annotations(source, index_dir=folder))

    def replace(file):
        drop_last(source)
        load_annotations(source, index_dir=folder)

    for change in (replace, lambda file: file.write_bytes(b"roiseg annotations 0000"), Path.unlink):
        change(only_file(folder))
        with pytest.raises(UserError, match="changed while it was in use"):
            pickle.loads(sent)
