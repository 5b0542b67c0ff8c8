"""What spade_index costs, measured: each module is a program that writes its figures as JSON."""
