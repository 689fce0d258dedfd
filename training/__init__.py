"""Makes the small Stable Diffusion 2 in models/emoji from nothing: pictures, VAE, text encoder, U-Net."""
