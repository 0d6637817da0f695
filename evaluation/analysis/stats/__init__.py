"""Pure functions from arrays to numbers: aggregates, intervals, tests."""
