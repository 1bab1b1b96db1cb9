"""The page's server without a browser and without a socket."""

import base64
import io
import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from predictors import EllipsePredictor
from site_driver import encoded
from werkzeug.test import Client

from roiseg.visualize.canvas import COLORS, ROI_RED
from roiseg.web import requests
from roiseg.web.application import STATIC, Application
from roiseg.web.models import Limits, Model

IMAGE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
BOXES = [[4.5, 3, 30, 40.25], [20, 10, 70, 60]]  # the second one reaches beyond the image


def client(*predictors, limits=None, host="127.0.0.1"):
    models = [Model(f"model {i}", p) for i, p in enumerate(predictors or [EllipsePredictor()])]
    return Client(Application(models, limits or Limits(), host))


def opened(client, image=IMAGE):
    response = client.post("/images", data=encoded(image))
    assert (response.status_code, response.json["width"], response.json["height"]) == (201, 64, 48)
    return response.json["image"]


@pytest.fixture
def two():
    """A client of two models, and them."""
    predictors = EllipsePredictor(), EllipsePredictor(height=0.5, tells_others=False)
    return client(*predictors), predictors


def grey(content):
    return np.array(Image.open(io.BytesIO(base64.b64decode(content))))


def test_the_page_and_its_files_are_served():
    page = client().get("/")
    assert page.status_code == 200
    assert page.mimetype == "text/html"
    kinds = {name: client().get(f"/{name}").mimetype for name in ("app.js", "style.css")}
    assert kinds["style.css"] == "text/css"
    assert kinds["app.js"].endswith("/javascript")  # else browsers do not run a module


def test_nothing_on_the_page_comes_from_elsewhere():
    for path in STATIC.iterdir():
        assert "://" not in path.read_text(), path.name
    policy = client().get("/").headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
    assert "http" not in policy


def test_the_pages_colours_are_those_of_the_figures():
    style = (STATIC / "style.css").read_text()
    for name in ("target", "non-target"):
        (color,) = re.findall(rf"--{name}: rgb\((\d+) (\d+) (\d+)\)", style)
        assert tuple(map(int, color)) == COLORS[name]
    assert len(set(COLORS.values()) | {ROI_RED}) == len(COLORS) + 1


@pytest.mark.parametrize(
    "path",
    [
        "/../application.py", "/..%2fapplication.py", "/%2e%2e/application.py", "//etc/passwd", "/etc/passwd",
        "/static/../../app.py", "/..\\application.py", "/app.js/", "/app.js%00", "/nothing",
        "/images", "/detections", "/predictions", "/masks",
    ],
)  # fmt: skip
def test_nothing_else_is_served(path):
    response = client().get(path)
    assert response.status_code in (404, 405)
    assert response.json["error"]


def test_the_models_are_told():
    told = client(EllipsePredictor(reads_points=True), EllipsePredictor(found=())).get("/models").json
    assert told["models"] == [
        {"name": "model 0", "summary": "", "points": True},
        {"name": "model 1", "summary": "", "points": False},
    ]
    assert told["detector"] is True
    assert client(EllipsePredictor()).get("/models").json["detector"] is False


def test_a_huge_body_is_not_read():
    class Endless(io.BytesIO):
        def read(self, size=-1):
            raise AssertionError("read")

        readline = readinto = read

    length = {"CONTENT_LENGTH": str(10**12)}
    response = client().post("/images", input_stream=Endless(), environ_overrides=length)
    assert response.status_code == 413
    assert "error" in response.json


def test_probabilities_are_sent_as_grey_images(two):
    page, predictors = two
    query = {"image": opened(page), "boxes": BOXES}
    answer = page.post("/predictions", json=query).json
    wanted = predictors[0].predict(BOXES, np.ones(2))
    pairs = (answer["targets"], wanted.probabilities), (answer["non_targets"], wanted.non_targets)
    for sent, made in pairs:
        for image, values in zip(sent, made, strict=True):
            np.testing.assert_allclose(grey(image) / 255, values, atol=0.5 / 255 + 1e-6)
    assert page.post("/predictions", json={**query, "model": 1}).json["non_targets"] is None
    nobody = page.post("/predictions", json={"image": query["image"]}).json
    assert nobody["results"] == nobody["targets"] == []


def test_the_detector_proposes_boxes_or_the_page_says_that_there_is_none():
    page = client(EllipsePredictor(), EllipsePredictor(found=((1, 2, 3, 4),)))
    answer = page.post("/detections", json={"image": opened(page)}).json
    assert answer["boxes"] == [[1, 2, 3, 4]]
    assert answer["scores"] == pytest.approx([0.9])
    page = client()
    response = page.post("/detections", json={"image": opened(page)})
    assert response.status_code == 400
    assert "detector" in response.json["error"]


def test_points_reach_only_models_that_read_them():
    reads, does_not = EllipsePredictor(reads_points=True), EllipsePredictor()
    page = client(reads, does_not)
    points = [[[5, 6, 1], [7, 8, 0]]]
    query = {"image": opened(page), "boxes": BOXES[:1], "points": points}
    for model in (0, 1):
        assert page.post("/predictions", json={**query, "model": model}).status_code == 200
    assert reads.points.tolist() == points
    assert does_not.points is None


def test_an_image_is_read_once_a_model_until_there_is_another():
    predictor = EllipsePredictor()
    page = client(predictor)
    first, second = opened(page), opened(page, IMAGE[:, ::-1])
    for name in (first, first, second, second, first):
        assert page.post("/predictions", json={"image": name, "boxes": BOXES}).status_code == 200
    assert [np.array_equal(image, IMAGE) for image in predictor.images] == [True, False, True]


def test_an_image_that_could_not_be_read_is_read_again(monkeypatch):
    predictor = EllipsePredictor()
    page = client(predictor)
    query = {"image": opened(page), "boxes": BOXES}
    with monkeypatch.context() as patch:
        patch.setattr(predictor, "set_image", lambda image: 1 / 0)
        failed = page.post("/predictions", json=query)
    assert failed.status_code == 500
    assert "ZeroDivision" not in failed.text
    assert page.post("/predictions", json=query).status_code == 200


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"image": "nothing"}, "open it again"),
        ({"model": 1}, "`model`"),
        ({"model": True}, "`model`"),
        ({"boxes": [[1, 2, 3]]}, "`boxes`"),
        ({"boxes": [[1, 2, None, 4]]}, "`boxes`"),
        ({"boxes": [[1, 2, 1e400, 4]]}, "`boxes`"),
        ({"boxes": [[5, 2, 3, 4]]}, "x1 < x2"),
        ({"boxes": [[64, 0, 70, 10]]}, "outside the image"),
        ({"boxes": [[0, 0, 9, 9]] * 501}, "at most 500"),
        ({"scores": [1, 2]}, "`scores`"),
        ({"threshold": 0}, "`threshold`"),
        ({"instance": 1}, "`instance`"),
        ({"image_id": -1}, "`image_id`"),
        ({"points": [[1, 2]]}, "`points`"),
        ({"path": "/etc/passwd"}, "unknown field `path`"),
    ],
)
def test_a_wrong_query_is_answered_in_one_line(change, said):
    page = client()
    query = {"image": opened(page), "boxes": [[1, 2, 30, 40]], **change}
    for route in ("/predictions", "/masks"):
        response = page.post(route, data=json.dumps(query), content_type="application/json")
        assert response.status_code in (400, 404)
        assert said in response.json["error"]
        assert "\n" not in response.json["error"]


def test_boxes_cover_a_bounded_number_of_pixels_together(monkeypatch):
    monkeypatch.setattr(requests, "PAGE_PIXELS", 2 * 64 * 48)
    page = client()
    image = opened(page)  # 64 x 48
    for route in ("/predictions", "/masks"):
        for count, status in ((2, 200), (3, 400)):
            answer = page.post(route, json={"image": image, "boxes": [[-99, -99, 999, 999]] * count})
            assert answer.status_code == status
    assert "megapixels together" in answer.json["error"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff\xfe", b'{"image": NaN}'])
def test_what_is_no_json_object_is_refused(body):
    response = client().post("/predictions", data=body, content_type="application/json")
    assert 400 <= response.status_code < 500
    assert response.json["error"]
    plain = client().post("/predictions", data=b"{}", content_type="text/plain")
    assert plain.status_code == 415  # what a foreign page can send without asking


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=12,
)
FIELDS = ("model", "boxes", "scores", "threshold", "image_id", "instance", "points")


@pytest.fixture(scope="module")
def page():
    return client()


@given(fields=st.dictionaries(st.sampled_from(FIELDS), JSON))
def test_no_json_makes_the_server_fail(page, fields):
    query = {"image": opened(page), "boxes": [[1, 2, 30, 40]], **fields}
    response = page.post("/predictions", data=json.dumps(query), content_type="application/json")
    assert response.status_code in (200, 400)


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        *((name, 200) for name in ("127.0.0.1:7860", "LocalHost", "[::1]:7860", "192.168.1.5", "studio.local:7860")),
        *((name, 403) for name in ("evil.example:7860", "127.0.0.1.evil.example", "localhost.evil.example")),
        *((name, 403) for name in ("", "[", "a@b")),
    ],
)  # fmt: skip
def test_only_addresses_and_the_configured_name_are_answered(asked, status):
    response = client(host="Studio.local").get("/", headers={"Host": asked})
    assert response.status_code == status
    assert status == 200 or response.json["error"]


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://127.0.0.1:7860", 201), (None, 201),  # no browser
        ("http://evil.example", 403), ("http://127.0.0.1:7861", 403), ("https://127.0.0.1:7860", 403), ("null", 403),
    ],
)  # fmt: skip
def test_only_its_own_page_may_post(origin, status):
    headers = {"Host": "127.0.0.1:7860"} | ({"Origin": origin} if origin else {})
    assert client().post("/images", data=encoded(IMAGE), headers=headers).status_code == status
