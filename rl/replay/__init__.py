"""The replay: a ring of frames, and what is drawn from it."""
