"""The Holdfast service. Start reading at `authorizer`."""
