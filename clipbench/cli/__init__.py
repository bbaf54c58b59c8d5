"""The command line. The only package that prints and knows exit codes."""
