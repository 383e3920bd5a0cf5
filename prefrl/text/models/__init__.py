"""Language models: load, place on a device, prompt, sample."""
