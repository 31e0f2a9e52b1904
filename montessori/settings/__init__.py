"""Every setting, typed once, with a description for the command line, the form and the docs.

A module holds the settings of one part of a run. `run.py` puts them together. `files.py` reads them from YAML. "Paper"
in a description means Montessori-Instruct (arXiv 2410.14208), appendix tables. A function takes only the values in use
there. Only the flows see all settings of a run.
"""
