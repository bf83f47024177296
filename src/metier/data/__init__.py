"""What the model learns from: read, clean, split, keep the ledger."""
