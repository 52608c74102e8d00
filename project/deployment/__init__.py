"""What leaves this repository: bundles, published weights, containers, and what is said of their parts."""
