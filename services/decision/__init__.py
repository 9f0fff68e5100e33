"""What decides: catalogue, manifests, risk, Cedar rules. Pure: values in, value out; time comes as an argument."""
