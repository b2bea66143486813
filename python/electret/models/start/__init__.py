"""Start values of a fresh model from its training data: statistics, densities, responses, ranges."""
