"""What a study did, to look at: frames (data by SQL), figures (plots of frames) and a report in one HTML file.

This package reads the store alone. It imports neither torch nor Ray, so it starts quickly and runs beside a search.
"""
