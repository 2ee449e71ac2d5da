"""The page: one file of HTML that asks for nothing else."""
