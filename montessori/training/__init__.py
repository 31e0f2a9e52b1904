"""Training on TRL: supervised fine-tuning of students (`sft`) and preference optimisation of teachers (`dpo`)."""
