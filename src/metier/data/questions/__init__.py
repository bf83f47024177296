"""From facts to questions: what a job of task 'qa' learns from and is examined on."""
