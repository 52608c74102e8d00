"""What leaves this repository: bundles, published weights, and what is said of their parts."""
