"""Fine-tuning: adapters, and what keeps a model close to its start; one subject per file."""
