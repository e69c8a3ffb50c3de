"""Schedules and checkpoints as files that other repositories run, and the way back. One file a format."""
