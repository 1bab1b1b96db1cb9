import sys

import pytest

from benchmarks import cache_scale

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")


def test_entries_are_stored_found_read_and_repaired(tmp_path):
    setting = cache_scale.Setting(tmp_path, entries=40, channels=1)
    receive, send = cache_scale.SPAWN.Pipe(duplex=False)
    for stored in (4, 0):
        cache_scale.fill(setting, send)
        tenths = [receive.recv() for _ in range(10)]
        assert receive.recv() > 0
        assert all(tenth.stored == stored and tenth.hits == 4 - stored for tenth in tenths)
    found = cache_scale.read(setting)
    assert len(found.warm) == len(found.cold) == 40
    assert all(entry.hit for entry in map(setting.open().get, setting.keys()))


@pytest.mark.slow  # starts processes
def test_table_is_printed(tmp_path, capsys):
    cache_scale.main(["--entries", "2000", "--channels", "1", "--folder", str(tmp_path)])
    printed = capsys.readouterr().out
    assert "A disk cache of 2,000 images" in printed and "damaged entry" in printed
    assert not list(tmp_path.iterdir())
