"""EDA's rivals, one file each, on the same data, behavior model, critics and training loop."""
