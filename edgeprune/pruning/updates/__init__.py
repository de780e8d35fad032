"""Weight updates and mask refinement, once zeros are chosen."""
