"""Run folders and archives as tables."""
