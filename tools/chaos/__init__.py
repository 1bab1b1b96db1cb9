"""What is done to commands by hand: kills, full disks, many at once, long runs; `python -m tools.chaos.NAME`."""
