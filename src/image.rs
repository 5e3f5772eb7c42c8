//! CRIU's image format.
