"""Where quantization hurts."""
