//! Hit: restore; miss: cold start and capture.
