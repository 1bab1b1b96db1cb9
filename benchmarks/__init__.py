"""Measurements, each compared with an alternative in the same run; `make bench` runs them all."""
