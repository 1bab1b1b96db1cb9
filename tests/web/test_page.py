"""The page in a real browser."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image
from predictors import EllipsePredictor
from site_driver import BOX, GREY, encoded

from roiseg.visualize.canvas import COLORS, instance_colors
from roiseg.web.models import Limits

pytestmark = pytest.mark.slow_except("test_a_box_is_dragged")

OPACITY = 0.65
SUMMARY = "pyramid, epoch 160, instance IoU 0.75"
TARGET, OTHER = COLORS["target"], COLORS["non-target"]
FIRST, SECOND = instance_colors(2)


def over(color, probability, ground=(128, 128, 128)):
    """What is seen where a colour lies over the grey with this probability."""
    alpha = OPACITY * probability
    return [alpha * c + (1 - alpha) * g for c, g in zip(color, ground, strict=True)]


@pytest.fixture
def site(visit):
    """A page with an image open and a box drawn on it."""
    site = visit()
    site.open()
    site.drag()
    return site


def test_a_box_is_dragged_and_a_mask_appears(visit):
    site = visit()
    assert site.page.title() == "roiseg"
    site.open()
    assert site.color(160, 150) == [128, 128, 128]
    site.drag()
    assert site.people() == ["1 · your box"]
    # the middle of the ellipse, a corner of the box, and beside it
    np.testing.assert_allclose(site.color(160, 150), over(TARGET, 1), atol=3)
    np.testing.assert_allclose(site.color(110, 230), over(OTHER, 0.8), atol=3)
    assert site.color(300, 150) == [128, 128, 128]
    assert not site.message()


def test_boxes_can_be_dragged_backwards_and_end_at_the_image(visit):
    site = visit()
    site.open()
    with site.page.expect_request("**/predictions") as request:
        site.page.mouse.move(*site.at(60, 50))
        site.page.mouse.down()
        site.page.mouse.move(*site.at(-30, -20))
        site.page.mouse.up()
    np.testing.assert_allclose(request.value.post_data_json["boxes"], [[0, 0, 60, 50]], atol=1)


def test_several_people_are_shown_together_or_alone(site):
    site.drag((250, 40, 350, 200))
    assert site.people() == ["Everybody", "1 · your box", "2 · your box"]
    assert site.color(160, 150) == [128, 128, 128]  # the second alone
    site.page.get_by_role("button", name="Everybody", exact=True).click()
    site.settle()
    np.testing.assert_allclose(site.color(160, 150), over(FIRST, 1), atol=3)
    np.testing.assert_allclose(site.color(300, 120), over(SECOND, 1), atol=3)
    assert site.color(110, 230) == [128, 128, 128]  # non-target of the one is target of the other
    site.click(160, 150)
    assert site.color(300, 120) == [128, 128, 128]
    site.click(380, 290)  # beside all boxes: everybody again
    np.testing.assert_allclose(site.color(300, 120), over(SECOND, 1), atol=3)
    site.page.get_by_role("button", name="Remove person 1").click()
    assert site.people() == ["2 · your box"]
    site.settle()
    assert site.color(160, 150) == [128, 128, 128]


FOUND = ((20, 20, 120, 220), (200, 30, 330, 280))
DETECTED = ["Everybody", "1 · detected 0.90", "2 · detected 0.50"]


def test_people_are_detected_when_an_image_is_opened_and_again_with_the_button(visit):
    site = visit(EllipsePredictor(found=FOUND))
    detect = site.page.get_by_role("button", name="Detect people")
    assert detect.is_disabled()
    site.open()
    assert site.people() == DETECTED
    np.testing.assert_allclose(site.color(70, 120), over(FIRST, 1), atol=3)
    _, content, _ = site.saved(".save-json")
    assert [result["score"] for result in json.loads(content)] == [0.9, 0.5]
    site.page.get_by_role("button", name="Remove person 1").click()
    detect.click()
    site.settle()
    assert site.people() == DETECTED


@pytest.mark.parametrize("found", [(), None])
def test_nobody_is_no_error_and_no_detector_no_button(visit, found):
    site = visit(EllipsePredictor(found=found))
    site.open()
    detect = site.page.get_by_role("button", name="Detect people")
    assert detect.is_disabled() == (found is None)
    assert ("finds no one" in site.message()) == (found is not None)


@pytest.fixture
def held(visit):
    """A site with an image open whose detection waits for `answer()`."""
    site = visit(EllipsePredictor(found=FOUND))
    site.answer = site.hold("**/detections")
    with site.page.expect_request("**/detections"):
        site.page.set_input_files("#file", {"name": "a.png", "mimeType": "image/png", "buffer": encoded()})
    return site


def test_a_late_detection_does_not_reach_the_next_image(held):
    held.open()
    held.page.get_by_role("button", name="Remove person 1").click()
    held.answer()
    assert held.people() == ["2 · detected 0.50"]
    assert not held.message()


@pytest.mark.parametrize("how", ["button", "Escape"])
def test_a_cancelled_detection_adds_nobody(held, how):
    if how == "button":
        held.page.get_by_role("button", name="Cancel").click()
    else:
        held.page.keyboard.press("Escape")
    held.settle()  # at once, without the answer
    held.answer()
    assert held.people() == []
    assert not held.message()
    held.page.get_by_role("button", name="Detect people").click()
    held.settle()
    assert held.people() == DETECTED


def test_a_box_drawn_during_the_detection_stays_selected(held):
    held.page.mouse.move(*held.at(*BOX[:2]))
    held.page.mouse.down()
    held.page.mouse.move(*held.at(*BOX[2:]))
    held.page.mouse.up()
    held.page.wait_for_selector(".pick")
    held.answer()
    assert held.people() == ["Everybody", "1 · your box", "2 · detected 0.90", "3 · detected 0.50"]
    pick = held.page.get_by_role("button", name="1 · your box")
    assert pick.get_attribute("aria-pressed") == "true"
    np.testing.assert_allclose(held.color(160, 150), over(TARGET, 1), atol=3)


def cursor(site, x, y):
    site.page.mouse.move(*site.at(x, y))
    return site.page.locator(".stage canvas").evaluate("canvas => getComputedStyle(canvas).cursor")


@pytest.mark.parametrize(
    ("start", "end", "box", "shown"),
    [
        ((220, 240), (300, 280), (100, 60, 300, 280), "nwse-resize"),
        ((220, 60), (300, 20), (100, 20, 300, 240), "nesw-resize"),
        ((100, 150), (40, 152), (40, 60, 220, 240), "ew-resize"),
        ((160, 60), (160, 20), (100, 20, 220, 240), "ns-resize"),
        ((220, 240), (20, 260), (20, 60, 100, 260), "nwse-resize"),  # beyond the opposite side
    ],
)
def test_a_dragged_corner_or_side_resizes_the_selected_box(site, start, end, box, shown):
    assert cursor(site, *start) == shown
    assert cursor(site, 160, 150) == cursor(site, 380, 280) == "crosshair"
    before = len(site.asked)
    with site.page.expect_request("**/predictions") as request:
        site.drag((*start, *end))
    assert len(site.asked) == before + 1  # when the drag ends, not on its way
    np.testing.assert_allclose(request.value.post_data_json["boxes"], [box], atol=1)
    assert site.people() == ["1 · your box"]
    middle = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    np.testing.assert_allclose(site.color(*middle), over(TARGET, 1), atol=3)


def test_a_finger_resizes_the_selected_box_and_draws_others(visit):
    site = visit(width=390, has_touch=True, is_mobile=True)
    site.open()
    site.swipe(*BOX)
    assert site.people() == ["1 · your box"]
    for start, end in (((230, 250), (310, 290)), ((300, 20), (380, 100))):
        with site.page.expect_request("**/predictions") as request:
            site.swipe(*start, *end)
        box = (100, 60, 300, 280) if start[0] == 230 else (*start, *end)
        np.testing.assert_allclose(request.value.post_data_json["boxes"], [box], atol=2)
    assert site.people() == ["Everybody", "1 · your box", "2 · your box"]


def test_a_detected_box_becomes_the_users_when_it_is_resized(visit):
    site = visit(EllipsePredictor(found=FOUND))
    site.open()
    site.click(70, 120)
    site.drag((120, 220, 150, 250))
    assert site.people() == ["Everybody", "1 · your box", "2 · detected 0.50"]


def test_a_resize_is_cancelled_with_escape_and_undone_if_the_server_is_gone_which_is_said(site):
    before = len(site.asked)
    site.page.mouse.move(*site.at(*BOX[2:]))
    site.page.mouse.down()
    site.page.mouse.move(*site.at(300, 280))
    site.page.keyboard.press("Escape")
    site.page.mouse.up()
    site.settle()
    assert len(site.asked) == before
    assert site.page.get_by_role("button", name="1 · your box").get_attribute("aria-pressed") == "true"
    site.server.shutdown()
    site.server.server_close()
    site.drag((*BOX[2:], 300, 280))
    assert "does not answer" in site.message()
    assert cursor(site, *BOX[2:]) == "nwse-resize"
    assert cursor(site, 300, 280) == "crosshair"
    site.drag((250, 40, 350, 200))
    assert site.people() == ["1 · your box"]


def test_a_late_answer_to_an_earlier_size_is_dropped(site):
    answer = site.hold("**/predictions")
    site.page.mouse.move(*site.at(*BOX[2:]))
    site.page.mouse.down()
    site.page.mouse.move(*site.at(390, 290))
    site.page.mouse.up()
    site.page.mouse.down()
    with site.page.expect_response("**/predictions"):
        site.page.mouse.move(*site.at(240, 260))
        site.page.mouse.up()
    answer()
    assert site.color(340, 270) == [128, 128, 128]  # inside the earlier box only
    np.testing.assert_allclose(site.color(170, 160), over(TARGET, 1), atol=3)


def test_numbers_change_the_selected_box(site):
    site.page.locator("summary").click()
    assert float(site.page.locator("input[name=x2]").input_value()) == pytest.approx(220, abs=1)
    site.page.locator("input[name=x2]").fill("300")
    with site.page.expect_request("**/predictions") as request:
        site.page.get_by_role("button", name="Change selected").click()
    site.settle()
    np.testing.assert_allclose(request.value.post_data_json["boxes"], [[100, 60, 300, 240]], atol=1)
    assert site.people() == ["1 · your box"]
    site.page.keyboard.press("Escape")
    site.click(380, 290)
    assert site.page.get_by_role("button", name="Change selected").is_disabled()
    assert site.page.locator("input[name=x2]").input_value() == ""


def test_images_come_first_on_a_phone_with_controls_in_reach_and_nothing_scrolls_sideways(visit):
    models = EllipsePredictor(found=FOUND, summary=SUMMARY), EllipsePredictor(summary=SUMMARY)
    site = visit(*models, width=390)
    site.open()
    site.click(70, 120)
    assert site.page.locator(".tiles").first.is_visible()
    for pane, highest in ((0, 200), (1, 100)):  # beside either image, the controls are in reach
        site.page.evaluate("pane => document.querySelectorAll('figure')[pane].scrollIntoView()", pane)
        image = site.page.locator(".stage canvas").nth(pane).bounding_box()
        controls = site.page.locator(".controls").bounding_box()
        assert image["y"] < highest < image["y"] + image["height"] < controls["y"] < 600
        assert controls["y"] + controls["height"] <= 800.5
    beyond = """() => [...document.querySelectorAll("body *")]
        .filter(each => each.getBoundingClientRect().right > innerWidth + 0.5 && each.checkVisibility())
        .map(each => each.outerHTML.slice(0, 80))"""
    assert site.page.evaluate(beyond) == []
    assert site.page.evaluate("document.documentElement.scrollWidth") == 390
    site.page.set_viewport_size({"width": 1280, "height": 800})
    left = [site.page.locator(name).first.bounding_box()["x"] for name in (".controls", ".stage canvas")]
    assert left[0] < 100 < left[1]


def test_the_caption_tells_what_the_checkpoint_is(visit):
    site = visit(EllipsePredictor(summary=SUMMARY), EllipsePredictor())
    assert site.page.locator("figcaption .name").all_inner_texts() == ["model 0", "model 1"]
    assert site.page.locator("figcaption .summary").all_inner_texts() == [SUMMARY, ""]


def test_a_bad_file_gives_a_message_and_leaves_the_image_before(visit):
    content, said = bytes(60_000), "larger than 0.05 MB"
    site = visit(limits=Limits(megabytes=0.05))
    site.open(content, "bad.png")
    assert said in site.message()
    assert not site.page.locator(".stage canvas").is_visible()
    site.open()
    assert not site.message()
    site.drag()
    site.open(content, "bad.png")
    assert said in site.message()
    assert site.people() == ["1 · your box"]
    np.testing.assert_allclose(site.color(160, 150), over(TARGET, 1), atol=3)


def test_two_checkpoints_are_compared(visit):
    tall, short = EllipsePredictor(), EllipsePredictor(height=0.5, tells_others=False)
    site = visit(tall, short)
    assert site.page.locator("figcaption .name").all_inner_texts() == ["model 0", "model 1"]
    site.open()
    site.drag(pane=1)  # a box in one is a box in both
    x, y = 160, 200  # within the tall ellipse only: 50 of 90 pixels below the middle
    np.testing.assert_allclose(site.color(x, y, 0), over(TARGET, 1 - (50 / 90) ** 2), atol=4)
    assert site.color(x, y, 1) == [128, 128, 128]
    for pane in (0, 1):
        np.testing.assert_allclose(site.color(160, 150, pane), over(TARGET, 1), atol=3)
    assert site.color(110, 230, 1) == [128, 128, 128]  # this one tells no non-target
    assert [tile.is_visible() for tile in site.page.locator(".tile-other").all()] == [True, False]
    names = [site.saved(".save-json", pane)[0] for pane in (0, 1)]
    assert names == ["grey_1.json", "grey_2.json"]


def test_what_is_saved_is_the_predictors_own(visit):
    predictor = EllipsePredictor()
    site = visit(predictor)
    site.open(name="000000000042.png")
    site.drag()
    site.drag((250, 40, 350, 200))
    site.page.locator("#threshold").fill("0.3")
    name, content, asked = site.saved(".save-json")
    wanted = predictor.predict(asked["boxes"], asked["scores"], None, 0.3)
    np.testing.assert_allclose(asked["boxes"], [BOX, (250, 40, 350, 200)], atol=1)
    assert name == "000000000042.json"
    assert json.loads(content) == json.loads(json.dumps(wanted.to_coco(42)))
    name, content, _ = site.saved(".save-all")
    assert name == "000000000042_labels.png"
    assert np.array_equal(np.array(Image.open(io.BytesIO(content))), wanted.label_map())
    name, content, _ = site.saved(".save-one")
    assert name == "000000000042_person_2.png"
    assert np.array_equal(np.array(Image.open(io.BytesIO(content))) > 0, wanted.mask(1))


def test_what_is_shown_can_be_chosen(site):
    x, y = 160, 200
    site.page.get_by_label("Mask", exact=True).check()
    site.settle()
    np.testing.assert_allclose(site.color(x, y), over(TARGET, 1), atol=3)  # 0.69, above the threshold
    site.page.locator("#threshold").fill("0.8")
    site.settle()
    assert site.color(x, y) == [128, 128, 128]
    site.page.get_by_label("Probability", exact=True).check()
    site.page.locator("#opacity").fill("1")
    site.settle()
    np.testing.assert_allclose(site.color(160, 150), TARGET, atol=3)
    site.page.get_by_label("Target", exact=True).uncheck()
    site.page.get_by_role("checkbox", name="Non-target").uncheck()
    site.settle()
    assert site.color(160, 150) == site.color(110, 230) == [128, 128, 128]
    edge = [site.color(100 + i, 150) != [128, 128, 128] for i in range(-4, 5)]
    assert any(edge)  # the chosen box is drawn all the same


def test_probabilities_are_told_in_maps_and_under_the_pointer(site):
    heat = site.page.evaluate(
        """() => {
            const canvas = document.querySelector(".tile-target");
            const middle = [canvas.width >> 1, canvas.height >> 1, 1, 1];
            const context = canvas.getContext("2d");
            return [middle, [1, 1, 1, 1]].map(place => [...context.getImageData(...place).data].slice(0, 3));
        }"""
    )
    np.testing.assert_allclose(heat, [(253, 231, 37), (68, 1, 84)], atol=3)  # 1 and 0 of viridis
    site.page.mouse.move(*site.at(160.5, 200.5))
    assert (
        site.page.locator(".readout").inner_text() == "x 160, y 200 · person 1: target 0.69, non-target 0.00"
    )


def test_the_page_works_from_the_keyboard(visit):
    site = visit()
    page = site.page
    page.get_by_role("button", name="Open image").focus()
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files({"name": "grey.png", "mimeType": "image/png", "buffer": encoded()})
    site.settle()
    page.locator("summary").focus()
    page.keyboard.press("Enter")
    for value in (*BOX, None):
        page.keyboard.press("Tab")
        if value is not None:
            page.keyboard.type(str(value))
    page.keyboard.press("Enter")
    site.settle()
    assert site.people() == ["1 · your box"]
    np.testing.assert_allclose(site.color(160, 150), over(TARGET, 1), atol=3)
    pick = page.get_by_role("button", name="1 · your box")
    assert pick.get_attribute("aria-pressed") == "true"
    pick.focus()
    page.keyboard.press("Escape")
    assert pick.get_attribute("aria-pressed") == "false"
    page.keyboard.press("Enter")
    page.keyboard.press("Delete")
    assert site.people() == []


def test_an_image_can_be_dropped(visit):
    site = visit()
    site.page.evaluate(
        """content => {
            const bytes = Uint8Array.from(atob(content), letter => letter.charCodeAt(0));
            const dataTransfer = new DataTransfer();
            dataTransfer.items.add(new File([bytes], "dropped.png", { type: "image/png" }));
            document.querySelector(".empty").dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true }));
        }""",
        base64.b64encode(encoded()).decode(),
    )
    site.page.wait_for_selector(".stage canvas:visible")
    assert site.page.locator(".stage canvas").get_attribute("aria-label").startswith("dropped")


def test_a_turned_photo_is_seen_as_the_model_sees_it(visit):
    predictor = EllipsePredictor()
    site = visit(predictor)
    exif = Image.Exif()
    exif[0x0112] = 6
    landscape = GREY.copy()
    landscape[:, :40] = 0  # turned by a quarter, clockwise, this is on top
    site.open(encoded(landscape, "JPEG", exif=exif, quality=95), "turned.jpg")
    assert site.color(150, 20) == [0, 0, 0]
    assert site.color(150, 380) == [128, 128, 128]
    site.drag((100, 200, 200, 380))
    assert predictor.images[-1].shape == (400, 300, 3)
    np.testing.assert_allclose(site.color(150, 290), over(TARGET, 1), atol=3)


def test_clicks_guide_models_that_read_them(visit):
    predictor = EllipsePredictor(reads_points=True)
    site = visit(predictor)
    site.open()
    site.drag()
    site.click(150, 100, key="Shift")
    site.click(120, 200, key="Alt")
    np.testing.assert_allclose(predictor.points, [[[150, 100, 1], [120, 200, 0]]], atol=1)
    assert site.people() == ["1 · your box"]
