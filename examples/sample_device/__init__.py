"""The sample device: four devices that are nothing but an environment variable each."""
