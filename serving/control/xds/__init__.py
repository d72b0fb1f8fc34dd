"""The controller's side of the gateways: Envoy's management server, access-log intake, reconciliation."""
