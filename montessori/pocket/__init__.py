"""A small world, and a teacher and a student built from nothing, for machines without a GPU."""
