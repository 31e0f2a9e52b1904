"""The Prefect flows, the requests of their tasks, and the command line."""
