"""Training: arguments, optimiser, objective, checkpoints and the loop, on Accelerate."""
