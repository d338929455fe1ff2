"""ldm: a laboratory for latent generative models."""
