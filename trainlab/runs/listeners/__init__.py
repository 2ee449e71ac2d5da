"""Callbacks as listeners: what they must be told, and which of them remember something that no checkpoint holds."""
