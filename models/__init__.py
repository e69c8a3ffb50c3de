"""Given a checkpoint and a schedule: which images, and how good are they?

This package knows networks, decoding and metrics. It knows nothing of studies, searches or databases and never
imports ``autonat``; it needs torch, numpy, scipy, safetensors and scikit-learn alone.
"""
