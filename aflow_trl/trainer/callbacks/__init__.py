"""Callbacks of the trainer: conditions that end a run, guards, progress."""
