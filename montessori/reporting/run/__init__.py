"""The report of a run, and of a night, which is a run with a verdict: its data, tables, figures and page."""
