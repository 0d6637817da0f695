"""What a study shows: methods against each other, with intervals and tests."""
