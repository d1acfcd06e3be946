"""Objective, step, optimizers, sharding, checkpoints and the loop."""
