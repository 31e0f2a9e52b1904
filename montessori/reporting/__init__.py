"""The report of one run: a table for the terminal, and a page with its figures."""
