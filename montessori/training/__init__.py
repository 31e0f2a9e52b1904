"""Train on TRL: fine-tuning of students (`sft`) and preference optimization of teachers (`dpo`)."""
