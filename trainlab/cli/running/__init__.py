"""What the verbs share: from a config to a trainer, its data and its directory; and failures as lines."""
