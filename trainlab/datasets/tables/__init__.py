"""Tables: files of named columns, and what becomes of their numbers, categories and gaps."""
