"""The paper's training and evaluation."""
