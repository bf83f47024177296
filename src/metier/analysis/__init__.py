"""Look inside a mixture of experts: which tokens go to which expert, and what that means."""
