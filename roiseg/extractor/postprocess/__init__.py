"""The frozen detector's own boxes: from the raw output of its head to boxes in input pixels."""
