"""An audit: deliberate attempts to bring an erased concept back, each measured with and without the adapter."""
