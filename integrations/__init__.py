"""Inside the trainers that people already use: each program, as it is installed."""
