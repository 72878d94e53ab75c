"""Checkpoints that are written: one writer for each format, and what they share."""
