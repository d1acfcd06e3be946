"""Diffusion processes: adding noise, the loss of a denoiser, sampling with one, and guidance."""
