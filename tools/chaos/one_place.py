"""Concurrent commands with the same output folder."""

from __future__ import annotations

import json
from pathlib import Path

from tests.helpers import make_onnx, tiny_coco
from tools.chaos.at_once import Job, run_at_once
from tools.chaos.kills import Run, command
from tools.chaos.sharing import PROCESSES, Found

EPOCHS = 3


def same_folders(folder: Path) -> Found:
    """Start new runs with the same output and checkpoint folders: each must get its own."""
    data = tiny_data(folder)
    arguments = command(data, folder / "place", export=False)
    jobs = [Job("train", arguments, folder / f"started{number}") for number in range(PROCESSES)]
    run_at_once(jobs)
    found = Found(len(jobs))
    for job in jobs:
        found.check(job.code == 0, f"{job.folder.name} ended with {job.code}:\n{job.output[-3000:]}")
    summaries = [json.loads(path.read_text()) for path in folder.glob("place/out*/summary.json")]
    found.check(len(summaries) == PROCESSES, f"{len(summaries)} summaries")
    found.check(len({s["checkpoint_dir"] for s in summaries}) == PROCESSES, "shared checkpoint folders")
    counts = [len(list(Path(s["checkpoint_dir"]).glob("*.pth"))) for s in summaries]
    found.check(counts == [EPOCHS] * PROCESSES, f"checkpoints: {counts}")
    for summary in summaries[1:]:
        found.compared += 1
        found.check(summary["history"] == summaries[0]["history"], f"{summary['output_dir']} differs")
    found.look_through(folder)
    return found


def going_on(folder: Path, kill: float | None = None) -> Found:
    """Resume one checkpoint in several processes: one does, the others exit with a message or resume later.

    Args:
        folder: of this case.
        kill: share of a training's time after which the first half of them are killed. The next one
            must be able to resume.
    """
    data = tiny_data(folder)
    place = folder / "place"
    whole, first = (Job("train", command(data, p, export=False), p) for p in (folder / "whole", place))
    run_at_once([whole, first])
    for path in sorted((place / "ckpt").glob("*.pth"))[1:]:
        path.unlink()  # as if it had been killed in the second epoch
    again = [*command(data, place, export=False), "ckpt_path=last"]
    jobs = [Job("train", again, folder / f"again{number}") for number in range(PROCESSES)]
    if kill is not None:
        for job in jobs[: PROCESSES // 2]:
            job.kill_after = kill * whole.seconds
    run_at_once(jobs)
    last = Job("train", again, folder / "last")
    run_at_once([last])  # the process that held the folder has ended: it is free at once
    found = Found(len(jobs), sum(job.killed for job in jobs))
    told = [job.in_one_line for job in jobs if not job.killed and job.code != 0]
    well = sum(job.code == 0 for job in jobs)
    found.check(kill is not None or well, "none went on")
    found.check(last.code == 0, f"the folder is not free:\n{last.output[-3000:]}")
    found.check(all("is still running (" in line for line in told), f"not in one line: {told}")
    found.notes.append(f"{well} went on, {len(told)} told that another does")
    found.compare(place.name, Run(folder / "whole", []).results(), Run(place, []).results())
    found.look_through(folder)
    return found


def one_output(folder: Path) -> Found:
    """Run commands that write the same file, or to the same folder."""
    data = tiny_data(folder)
    trained = Job("train", command(data, folder / "run", export=False), folder / "run")
    run_at_once([trained])
    ckpt = sorted((folder / "run/ckpt").glob("*.pth"))[-1]
    out, found = folder / "out", Found()
    jobs = {
        "predict": [f"source={data}/images", f"ckpt={ckpt}", "boxes=coco", f"output_dir={out}/predicted",
                    "writers=[coco,labels,overlay]"],
        "evaluate": [f"ckpt={ckpt}", f"output_dir={out}/evaluated"],
        "export": [f"ckpt={ckpt}", f"output={out}/decoder.onnx"],
        "preview": [*command(data, folder / "previewed", export=False), f"output={out}/preview.png"],
        "synthesize": [f"root={out}/drawn", "train_images=3", "val_images=2"],
    }  # fmt: skip
    for name, arguments in jobs.items():
        same = [Job(name, arguments, folder / f"{name}{number}") for number in range(4)]
        run_at_once(same)
        found.processes += len(same)
        for job in same:
            found.check(job.code == 0, f"{job.folder.name} ended with {job.code}:\n{job.output[-3000:]}")
    for name, file in (("predicted", "coco_results.json"), ("evaluated", "evaluation.json")):
        written = [path.read_bytes() for path in sorted(out.glob(f"{name}*/{file}"))]
        found.check(len(written) == 4, f"{len(written)} {file}")
        if name == "predicted":
            found.compared += len(written)
            found.check(len(set(written)) == 1, f"{file} differ")
    found.look_through(folder)
    return found


def tiny_data(folder: Path) -> Path:
    """Create the tiny COCO set and detector below a folder."""
    data = folder / "data"
    data.mkdir(parents=True)
    tiny_coco(data)
    make_onnx(data / "tiny.onnx")
    return data
