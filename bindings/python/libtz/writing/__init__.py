"""Writes checkpoints: one writer for each format, and what they share."""
