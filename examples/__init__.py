"""The businesses that perdure is shown with."""
