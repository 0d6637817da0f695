"""YAML configurations shipped as package data: one folder per trainer."""
