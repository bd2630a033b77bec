"""A real Kubernetes on one machine, for our tests: built from package registries only, without a container engine."""
