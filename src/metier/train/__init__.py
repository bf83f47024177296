"""Learning: the loop, its batches, its schedule, its checkpoints."""
