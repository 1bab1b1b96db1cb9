"""The labels of a ROI's pixels."""

BACKGROUND, TARGET, NON_TARGET = 0, 1, 2
IGNORE = 255  # crowd or uncertain: not counted anywhere
CLASS_NAMES = ("background", "target", "non_target")
