"""The teacher's side: few-shot prompts, sampling, parsing, filters, near-duplicates."""
