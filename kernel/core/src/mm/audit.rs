//! The checker that proves the invariants: it walks everything, recomputes every count, and compares.
