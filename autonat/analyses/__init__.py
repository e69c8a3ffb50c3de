"""ENAT's own analyses (arXiv 2411.06959) on a study's data: one file each, run by ``autonat.analyze_command``."""
