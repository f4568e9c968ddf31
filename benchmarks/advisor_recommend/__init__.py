"""The advisor's autoscaler beside Kubernetes' own controller, on histories that are made up."""
