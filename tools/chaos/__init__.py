"""Fault injection by hand: kills, full disks, concurrency, long runs; `python -m tools.chaos.NAME`."""
