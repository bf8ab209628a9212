"""The diffusion model: noise schedule, energy network, samplers."""
