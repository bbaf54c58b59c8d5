"""Many runs: which there are, in which groups, on which workers."""
