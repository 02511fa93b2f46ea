"""The only place that asks autograd for per-task gradients."""
