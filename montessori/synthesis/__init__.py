"""Generate instructions with the teacher: prompts, engines, filters, near-duplicates."""
