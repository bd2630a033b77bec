"""Engine clusters: what is wished, what was seen, and the loop that brings the two together."""
