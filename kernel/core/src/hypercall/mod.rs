//! The hypercalls, one a file.
