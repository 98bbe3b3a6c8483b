"""The commands of `perdure`, one module a command or a family of them."""
