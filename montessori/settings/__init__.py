"""Every setting, typed once, with a description that the command line, the form and the docs show.

A module holds the settings of one part of a run. `run.py` puts them together. `files.py` reads them from YAML.
"Paper" in a description means Montessori-Instruct (arXiv 2410.14208), appendix tables.
Functions take the few values that they use. Only the flows see all settings of a run.
"""
