"""Every choice of conf/writers composes, builds, and leaves what it says."""

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from writer_cases import nobody, result, write

from roiseg.config.entry import CONF_DIR

CHOICES = sorted(path.stem for path in (CONF_DIR / "writers").glob("*.yaml"))


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_writes_where_it_says(tmp_path, choice):
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF_DIR)):
        cfg = compose("predict", overrides=[f"writers=[{choice}]", "output_dir=x"])
    writers = instantiate(cfg.writers, _convert_="all")
    assert set(writers) == (set(CHOICES) - {"all"} if choice == "all" else {choice})
    for writer in writers.values():
        assert write(writer, tmp_path, [result(), nobody()]).exists()
