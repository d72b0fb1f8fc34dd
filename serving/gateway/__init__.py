"""The gateway: stock Envoy with a fixed bootstrap; everything else comes from the controller."""
