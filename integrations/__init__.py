"""Inside the trainers that people already use: each program, tried as it is installed."""
