"""Features of the frozen detector, kept between epochs and runs."""
