"""Configs: from the text of gin files to what a run is made of, and a clear line for every mistake in it."""
