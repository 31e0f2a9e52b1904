"""Training on TRL: fine-tuning of students (`sft`) and preference optimisation of teachers (`dpo`)."""
