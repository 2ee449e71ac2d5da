"""What the command does, a verb or an option a file."""
