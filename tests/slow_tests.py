"""Which tests are `slow`, and so left to `make test-all`: one table, beside the marks in the files."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

# whole files: commands in processes, parity of everything, files that are bad in every way, pages run as they stand
FILES = {
    "benchmarks": ("test_coco_cost", "test_decoder_benchmarks", "test_cache_benchmark", "test_ddp_benchmark",
                   "test_loops_benchmark", "test_paste_benchmark", "test_targets_benchmark"),
    "cli": ("test_stopped_commands",),
    "commands": ("test_app", "test_cache", "test_check", "test_ddp", "test_feature_layers", "test_frames",
                 "test_in_epoch", "test_mirror_run", "test_processes", "test_slurm", "test_stopped", "test_tensorboard", "test_wheel"),
    "docs": ("test_pages", "test_troubleshooting"),
    "faults": ("test_bad_commands", "test_concurrency", "test_fuzz", "test_group_kills", "test_kills", "test_long_run",
               "test_resources", "test_skip_in_ddp"),
    "notebooks": ("test_notebooks",),
}  # fmt: skip
# tests of which one member stays in `make test`: the first of each, unless its name holds the word
REPRESENTATIVES = {
    "commands/test_any_name.py": "",
    "commands/test_every_model.py": "roialign",
    "commands/test_errors.py::test_a_broken_data_set_is_named_in_one_line": "",
    "commands/test_train.py::test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit": "",
    "decoders/test_every_decoder.py::test_bfloat16_autocast_is_near_float32": "roialign",
    "decoders/test_every_decoder.py::test_channels_last_weights_give_the_same_logits": "roialign",
    "decoders/test_every_decoder.py::test_one_batch_of_overlapping_ellipses_can_be_learned_by_heart": "roialign",
    "decoders/test_parts.py::test_parts_give_the_gradients_of_the_whole": "cascade",
    "inference/test_every_decoder_onnx.py": "roialign",
    "inference/test_onnx_boxes.py": "",
    "inference/test_onnx_context.py": "",
    "inference/test_onnx_graph.py": "",
    "losses/test_every_loss_learns.py": "[ce_dice]",
    "web/test_page.py": "",
}


def mark_slow(items: Iterable[pytest.Item]) -> None:
    """Mark tests of the tables, and those on real data, as slow."""
    kept: set[str] = set()
    for item in items:
        name = item.nodeid.removeprefix("tests/")
        folder, _, file = name.split("::")[0].rpartition("/")
        slow = file.removesuffix(".py") in FILES.get(folder, ()) or item.get_closest_marker("realdata")
        for start, word in REPRESENTATIVES.items():
            if not slow and name.startswith(start):
                kind = start if start == "web/test_page.py" else name.split("[")[0]
                slow = kind in kept or word not in name
                if not slow:
                    kept.add(kind)
        if slow:
            item.add_marker(pytest.mark.slow)
