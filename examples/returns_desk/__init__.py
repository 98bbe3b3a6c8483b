"""The returns desk of a shop: triage requests, refund once, ask a person about the edge cases."""
