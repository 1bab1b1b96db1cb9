"""Annotation files that are wrong, odd or hostile.

Each case changes a sound file of two images (ids 7 and 8, 80x64 pixels) with a person each (ids 3 and 4).
"""

import copy
import json
import math
from collections.abc import Callable
from typing import Any, NamedTuple

from helpers import hole_rle, rectangle, uncompressed_rle

SQUARE = rectangle(10, 10, 40, 50)
HUGE = 10**400
NO_SIDES = (0, -64, 64.5, "64", None, math.nan, math.inf, 2**31, HUGE)

PERSON = {"category_id": 1, "bbox": [10, 10, 30, 40], "iscrowd": 0, "segmentation": [SQUARE]}
SOUND: dict[str, Any] = {
    "images": [{"id": i, "file_name": f"{name}.jpg", "width": 80, "height": 64} for i, name in ((7, "a"), (8, "b"))],
    "annotations": [{"id": i, "image_id": image, **PERSON} for i, image in ((3, 7), (4, 8))],
    "categories": [{"id": 1, "name": "person"}],
}  # fmt: skip


class BadAnnotations(NamedTuple):
    """A file and what becomes of it."""

    content: bytes
    words: tuple[str, ...] = ()  # of the line that refuses it; empty: it is taken
    warning: str = ""  # what a warning says where it is taken; empty: there is none


def changed(change: Callable[[dict[str, Any]], object], *words: str, warning: str = "") -> BadAnnotations:
    content = copy.deepcopy(SOUND)
    change(content)
    return BadAnnotations(json.dumps(content).encode(), words, warning)


def image(words=(), **fields):
    return changed(lambda c: c["images"][1].update(fields), *words)


def person(words=(), warning="", **fields):
    return changed(lambda c: c["annotations"][1].update(fields), *words, warning=warning)


def shape(*parts, words=(), warning=""):
    return person(words, warning, segmentation=list(parts))


def rle(size, counts, words=(), warning=""):
    return person(words, warning, segmentation={"size": size, "counts": counts})


def without(key, field):
    return changed(lambda c: c[key][1].pop(field), f"{key}[1]", field)


def text(content: str | bytes, *words: str) -> BadAnnotations:
    return BadAnnotations(content.encode() if isinstance(content, str) else content, words)


def each(name, make, *values):
    """Cases that differ in one value."""
    return {f"{name} {value!r:.30}": make(value) for value in values}


WHOLE = json.dumps(SOUND)
NO_JSON, NO_COCO = "not valid json", "it is not in COCO format"
LEFT_OUT, CROWD = "1 instances without area left out", "1 of 2 instances are marked `iscrowd`"
UNFIT = "1 of 2 outlines do not fit their boxes, such as annotation 4 of b.jpg"
BBOX, POLYGON = ("annotations[1]", "`bbox`"), ("annotations[1]", "`segmentation`")
NAME = ("images[1]", "file_name")

TEXTS = {
    "empty file": text("", NO_JSON),
    **{f"cut at {share} %": text(WHOLE[: len(WHOLE) * share // 100], NO_JSON) for share in (10, 50, 90, 99)},
    "two documents": text(WHOLE + WHOLE, NO_JSON),
    "a record a line": text("\n".join(map(json.dumps, SOUND["annotations"])), NO_JSON),
    "comment": text("// people\n" + WHOLE, NO_JSON, "line 1"),
    "latin-1": text(WHOLE.replace("a.jpg", "ü.jpg").encode("latin-1"), NO_JSON),
    "nested 100,000 deep": text("[" * 100_000, NO_JSON),
    "a number of 10,000 digits": text('{"images": ' + "9" * 10_000 + "}", NO_JSON),
    "utf-8 with a mark": text(b"\xef\xbb\xbf" + WHOLE.encode()),
    "utf-16": text(WHOLE.encode("utf-16")),
    "spread over lines": text(json.dumps(SOUND, indent=2)),
    "nan where nothing is read": text(WHOLE.replace('"iscrowd": 0', '"area": NaN')),
}  # fmt: skip

SCHEMAS = {
    "null": text("null", NO_COCO), "nothing in it": text("{}", NO_COCO),
    "list of detections": text('[{"image_id": 7, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 1}]', NO_COCO),
    "images by name": changed(lambda c: c.update(images={"a.jpg": {}}), NO_COCO),
    "no annotations": changed(lambda c: c.pop("annotations"), NO_COCO, "annotations"),
    "annotations null": changed(lambda c: c.update(annotations=None), NO_COCO),
    "labelme": text('{"shapes": [], "imagePath": "a.jpg", "imageHeight": 64}', NO_COCO),
    "panoptic": changed(lambda c: c.update(annotations=[{"image_id": 7, "segments_info": []}]), "no instance of category_id 1"),
    "an image that is null": changed(lambda c: c["images"].append(None), "images[2]", "not an object"),
    "an annotation that is a list": changed(lambda c: c["annotations"].append([]), "annotations[2]", "not an object"),
    "no images at all": changed(lambda c: c["images"].clear(), "annotations[0]", "image_id"),
    "no person at all": changed(lambda c: c["annotations"].clear(), "no instance of category_id 1", "no annotations"),
    "dogs only": changed(lambda c: [a.update(category_id=18) for a in c["annotations"]], "category_id 1", "18"),
    "categories as texts": changed(lambda c: [a.update(category_id="1") for a in c["annotations"]], "'1'"),
    "categories null": changed(lambda c: [a.update(category_id=None) for a in c["annotations"]], "None"),
    "a dog, too": changed(lambda c: c["annotations"][1].update(category_id=18, bbox="wrong")),
    "no categories": changed(lambda c: c.pop("categories")),
}  # fmt: skip

IMAGES = {
    **{f"image without {field}": without("images", field) for field in ("id", "width", "height", "file_name")},
    **each("image id", lambda v: image(("images[1]", "`id`"), id=v), None, "8", 8.0, True, [8], HUGE, math.nan),
    "image id twice": image(("images[1]", "id 7 occurs twice"), id=7),
    **each("width", lambda v: image(("images[1]", "`width`"), width=v), *NO_SIDES),
    **each("height", lambda v: image(("images[1]", "`height`"), height=v), *NO_SIDES),
    "a record of 2,000,000,000 pixels a side": image(("images[1]", "100000000"), width=2 * 10**9, height=2 * 10**9),
    **each("file_name", lambda v: image(NAME, file_name=v),
           None, "", 5, ["b.jpg"], "../b.jpg", "sub/../../b.jpg", "/etc/passwd", "..", "..\\b.jpg", "C:\\b.jpg",
           "\\\\host\\b.jpg", "file:///b.jpg", "b\0.jpg"),
    **each("file_name that is not there", lambda v: image(("1 of 2 images",), file_name=v),
           "c.jpg", "~/b.jpg", "b\n.jpg", "b.jpg\x1b[2J", "b" * 5000, "\ud800.jpg"),
    "file_name with a dot": image(file_name="./b.jpg"), "file_name with a slash": image(file_name="b.jpg/"),
    "file_name in other letters": image(file_name="ü ñ 人 🧍.jpg"),
    "file_name twice": image(file_name="a.jpg"),
    **each("pixel_size_um", lambda v: image(("images[1]", "`pixel_size_um`"), pixel_size_um=v),
           0, -1, "1", math.nan, math.inf, HUGE),
    "pixel_size_um of one image only": image(("images[0]", "pixel_size_um"), pixel_size_um=0.5),
}  # fmt: skip

PEOPLE = {
    **{f"person without {field}": without("annotations", field) for field in ("id", "image_id", "bbox", "segmentation")},
    **each("id", lambda v: person(("annotations[1]", "`id`"), id=v), None, "4", 4.5, False, HUGE),
    "id twice": person(("annotations[1]", "id 3 occurs twice"), id=3),
    **each("image_id", lambda v: person(("annotations[1]", "`image_id`"), image_id=v), None, 9, -1, "8", 8.0, [8], {}, HUGE),
    **each("bbox", lambda v: person(BBOX, bbox=v),
           None, [], [1, 2, 3], [1, 2, 3, 4, 5], "1 2 3 4", {"x": 1}, [1, 2, 3, "4"], [1, 2, 3, None], [[10, 10], [30, 40]],
           [math.nan, 10, 30, 40], [10, 10, math.inf, 40], [10, 10, 30, -math.inf], [HUGE, 0, 1, 1], [True, 10, 30, 40]),
    **each("bbox without area", lambda v: person(bbox=v, warning=LEFT_OUT),
           [10, 10, 0, 40], [10, 10, 30, 0], [10, 10, -30, 40], [10, 10, -30, -40], [90, 10, 20, 20], [-50, 10, 20, 20],
           [10, 64, 5, 5], [0, 0, 0, 0], [1e29, 1e29, 1, 1]),
    "bbox that leaves the image": person(bbox=[-1000, -1000, 5000, 5000], warning=UNFIT),
    "bbox of a hundredth of a pixel": person(bbox=[10, 10, 0.01, 0.01], warning=UNFIT),
    **each("iscrowd", lambda v: person(("annotations[1]", "`iscrowd`"), iscrowd=v), 2, -1, "0", None, []),
    "a crowd": person(iscrowd=1, warning=CROWD),
    "crowds only": changed(lambda c: [a.update(iscrowd=1) for a in c["annotations"]], "all 2", "data.crowd=instance"),
    "iscrowd true": person(iscrowd=True, warning=CROWD),
}  # fmt: skip

OUTLINES = {
    **each("segmentation", lambda v: person(POLYGON, segmentation=v),
           None, 5, "polygon", [5], SQUARE, ["abc"], [None], [[[10, 10], [40, 10], [40, 50]]], [{"counts": [1]}]),
    "odd polygon": shape([10, 10, 40, 10, 40], words=POLYGON),
    **each("polygon with", lambda v: shape([10, 10, 40, v, 40, 50], words=POLYGON),
           math.nan, math.inf, -math.inf, None, "1", True, HUGE, 1e9, -1e9, 1e308),
    "no polygon": shape(warning=LEFT_OUT), "empty polygon": shape([], warning=LEFT_OUT),
    "polygon of a point": shape([10, 10], warning=LEFT_OUT),
    "polygon outside the image": shape(rectangle(200, 10, 240, 50), warning=LEFT_OUT),
    "polygon on a line": shape([10, 10, 20, 10, 40, 10], warning=LEFT_OUT),
    "polygon of one place": shape([10, 10] * 4, warning=LEFT_OUT),
    "second polygon outside the image": shape(SQUARE, rectangle(200, 10, 240, 50)),
    "second polygon of two points": shape(SQUARE, [1, 1, 2, 2]),
    "polygon that crosses itself": shape([10, 10, 40, 50, 40, 10, 10, 50]),
    "polygon partly outside": shape(rectangle(-20, -20, 40, 50), warning=UNFIT),
    "polygon around the image": shape(rectangle(-700, -600, 780, 630), warning=UNFIT),
    "polygon of 20,000 points": shape([float(10 + n % 30 + (n // 2 % 2)) for n in range(40_000)]),
    "polygon below a pixel": shape([10, 10, 10.1, 10, 10.1, 10.1], warning=UNFIT),
    "a thousand polygons": shape(*[rectangle(10, 10, 40, 50)] * 1000),
    "rle": person(segmentation=hole_rle(64, 80, (10, 10, 40, 50), (20, 20, 30, 30))),
    "compressed rle of another image": rle([64, 80], "Z`1", words=POLYGON),
    "rle of a wrong size": rle([64, 81], [64 * 81], words=(*POLYGON, "RLE size")),
    "rle without a size": person(POLYGON, segmentation={"counts": [5120]}),
    "rle too short": rle([64, 80], [10, 20], words=(*POLYGON, "add up to 30")),
    **each("rle of the size", lambda v: rle(v, [5120], words=POLYGON), [80, 64], None, [64.5, 80]),
    **each("rle of runs", lambda v: rle([64, 80], v, words=POLYGON),
           [5000, 5000], [-10, 5130], [10.5, 5109.5], [HUGE], [2**32 + 5120], [], 5, "", "~~~", "oo", "o" * 500 + "0"),
    "rle of nothing": rle([64, 80], [5120], warning=LEFT_OUT),
    "rle of everything": rle([64, 80], [0, 5120], warning=UNFIT),
    "rle with runs of no length": rle([64, 80], [0, 0, 100, 0, 0, 5020, 0], warning=UNFIT),
    "rle of every other pixel": rle([64, 80], uncompressed_rle([[(r + c) % 2 for c in range(80)] for r in range(64)])["counts"], warning=UNFIT),
}  # fmt: skip

ANNOTATIONS = TEXTS | SCHEMAS | IMAGES | PEOPLE | OUTLINES
