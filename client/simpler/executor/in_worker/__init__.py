"""What a worker process does for a call: puts it into its surroundings, runs it, and is afterwards as it was before."""
