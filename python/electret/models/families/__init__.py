"""One module per model family, with the parts that only families use."""
