"""Changes of kept weights and masks once zeros are chosen."""
