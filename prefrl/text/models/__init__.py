"""Language models: loaded, placed on a device, spoken to, sampled from."""
