"""Fast paths of `unroll`: graph (what a step computes), program (forward and backward), and their back ends."""
