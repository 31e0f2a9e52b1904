"""Generate a small world, and train a teacher and a student from scratch, for machines without a GPU."""
