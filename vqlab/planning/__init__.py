"""What a train step costs on an accelerator: counted from traced and compiled programs."""
