"""Inference engines: reads their metrics endpoints and folds what their counters grew by into serving windows.

Each *.toml file here says of one engine which metric means what; a new engine is a file and no code.
"""
