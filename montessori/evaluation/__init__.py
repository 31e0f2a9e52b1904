"""What a trained student is measured on."""
