"""What a run has left in its directory, read without TensorFlow and in spite of damage."""
