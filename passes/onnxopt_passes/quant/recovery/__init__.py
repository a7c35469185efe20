"""What brings back accuracy without labels; each step stays only where held-out error falls."""
