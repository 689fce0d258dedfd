"""Erases concepts from Stable Diffusion 2 and draws with it; synchronous, knows no gRPC."""
