"""What a study shows: tables and figures over systems, students and seeds."""
