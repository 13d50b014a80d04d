"""Share a trained model: its model card, and the upload to the Hub."""
