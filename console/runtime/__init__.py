"""How Holdfast runs on one machine: the embedded servers, the child processes, and the supervisor over them."""
