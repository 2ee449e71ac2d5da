"""The parts of `kill_and_resume.py`: processes that are watched, when they are stopped, what is compared, kinds of data."""
