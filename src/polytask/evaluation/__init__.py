"""What may be said of a run: comparison with single-task training, Delta-m, verdicts, the model card."""
