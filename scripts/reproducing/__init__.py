"""The parts of `reproduce.py`: published figures, closed forms, and what is seen of them here."""
