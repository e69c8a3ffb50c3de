"""Which candidate next, run where, recorded how: search, orchestration and storage of autonat's studies."""

__version__ = "0.1.0"
