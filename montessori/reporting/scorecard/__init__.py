"""An evaluation as people and programs read it: tables in Markdown, LaTeX and CSV, figures, a page, `metrics.json`."""
