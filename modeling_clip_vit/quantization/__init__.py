"""Eight bits: quantisation-aware training, quantisation of a trained model, and what it costs."""
