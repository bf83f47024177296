"""What a job can be: each task is one file that owns its prompts, its metrics and its splitting."""
