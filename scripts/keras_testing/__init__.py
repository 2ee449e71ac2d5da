"""Keras' own tests with `fit` handed to a Trainer: the plugin that hands it over, the judgement, and the tests that may fail."""
