"""The benchmark's parts: what is trained (workloads), by whom (contestants), how it is timed, and the tables."""
