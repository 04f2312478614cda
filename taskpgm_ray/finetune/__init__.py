"""Fine-tuning: a plain LoRA loop, and lanes on Ray Train that run it for many jobs."""
