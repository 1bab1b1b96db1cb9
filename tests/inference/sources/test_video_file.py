"""Frames of videos that the test writes."""

import socket

import pytest
from tiny_video import write_video

from roiseg.common.errors import UserError
from roiseg.inference.sources.image_files import open_source


@pytest.mark.parametrize(("suffix", "codec"), [(".mp4", "mp4v"), (".avi", "MJPG")])
def test_every_frame_comes_once_in_order_as_rgb(tmp_path, suffix, codec):
    source = open_source(str(write_video(tmp_path / f"clip.v1{suffix}", codec=codec)))
    assert (source.video.name, source.video.size, source.video.fps) == ("clip.v1", (48, 64), 12.5)
    assert len(source) == 12
    for expected, frame in enumerate(source):
        image = frame.read()
        assert (frame.number, frame.path) == (expected, None)
        assert frame.key == frame.name == f"clip.v1_{expected:06d}"
        assert image.shape == (48, 64, 3)
        assert abs(float(image[:, :28].mean()) - 20 * expected) < 4
        assert image[:, 40:].reshape(-1, 3).mean(0) == pytest.approx([255, 0, 0], abs=12)
    assert expected == 11
    assert [frame.number for frame in source] == list(range(12))  # once more, from the start


def test_a_video_that_ends_early_is_told(tmp_path, caplog):
    path = write_video(tmp_path / "x.avi", count=60, codec="MJPG")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    source = open_source(str(path))
    number = sum(1 for _ in source)
    assert 0 < number < len(source) == 60
    assert f"ends after {number} of 60 frames" in caplog.text


def test_a_file_that_is_no_video_and_two_videos_are_refused_in_one_line(tmp_path, capfd):
    for content in (b"", b"\0" * 5000, b"not a video"):
        (tmp_path / "x.mp4").write_bytes(content)
        with pytest.raises(UserError, match=r"x\.mp4 is neither an image nor a video"):
            open_source(str(tmp_path / "x.mp4"))
    assert capfd.readouterr().err == ""
    path = str(write_video(tmp_path / "x.mp4", count=2))
    with pytest.raises(UserError, match="a single video"):
        open_source([path, path])


@pytest.mark.parametrize("content", [
    "#EXTM3U\n#EXTINF:1,\nhttp://{}/a.ts\n#EXT-X-ENDLIST\n",
    "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:1,\n{}/x.avi\n#EXT-X-ENDLIST\n",
    "ffconcat version 1.0\nfile tcp://{}\n", None,
])  # fmt: skip
def test_no_file_or_name_leads_elsewhere(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        if content is None:
            write_video(tmp_path / "x.avi", codec="MJPG").rename(f"tcp:{address}")
            assert sum(1 for _ in open_source(f"tcp:{address}")) == 12
        else:
            (tmp_path / "elsewhere").mkdir()
            write_video(tmp_path / "elsewhere/x.avi", codec="MJPG")
            place = tmp_path / "elsewhere" if content.count("x.avi") else address
            (tmp_path / "x.mp4").write_text(content.format(place))
            with pytest.raises(UserError, match="neither an image nor a video"):
                open_source("x.mp4")
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()
