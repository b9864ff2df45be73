"""The commands, one module each: arguments, printing, and nothing else."""
