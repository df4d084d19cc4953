"""Which cameras can be used: bounds between which the projection and its gradients stay inside float32."""

# Of a pose's or a point's coordinates: far beyond any scene, and float32 holds its square.
LARGEST = 1e15
