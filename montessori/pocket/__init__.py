"""A small world, and a teacher and a student trained from scratch, for machines without a GPU."""
