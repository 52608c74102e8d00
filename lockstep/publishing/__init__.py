"""What leaves this repository: bundles, published weights, containers."""
