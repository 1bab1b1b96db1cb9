"""Manual fault injection: kills, full disks, concurrency, long runs; `python -m tools.chaos.NAME`."""
