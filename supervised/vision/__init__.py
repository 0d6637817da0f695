"""Images: where they come from, how they are augmented, which models classify them."""
