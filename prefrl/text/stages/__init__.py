"""What is done with texts outside the loop: fine-tuning and fitting."""
