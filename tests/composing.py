"""Configurations of commands without a command line."""

from __future__ import annotations

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from roiseg.config.argv import CONF_DIR, quote
from roiseg.config.entry import numeric_keys


def command_configuration(name, *overrides):
    """The configuration of a command that is not built on that of training."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF_DIR)):
        return compose(name, overrides=list(overrides))


def composed(overrides, root):
    """The training configuration with `overrides`, everything written under `root`."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF_DIR)):
        return compose("train", overrides=[
            f"paths.root_dir={root}", f"paths.output_dir={root}/outputs/run", *(quote(word, numeric_keys("train")) for word in overrides),
        ])  # fmt: skip
